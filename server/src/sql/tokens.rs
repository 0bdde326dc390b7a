//! A statement's tokens, with where each stands in the text, and a cursor over them for our own grammar.

use std::fmt;

use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};
use lazaret_catalog::dialect::LazaretDialect;

use super::names::{Ident, ObjectName};
use crate::error::{Error, ErrorKind, Position, Result};

/// Tokens in one statement. Each costs some 300 bytes once it is a syntax tree, so that this bounds the memory of a parse
/// at about 75 MiB; a list of 100,000 values passes.
pub const MAX_TOKENS: usize = 262_144;

/// Operators and brackets from the root of an expression to its deepest leaf, a bracket counted as [`BRACKET_DEPTH`].
/// DataFusion names, evaluates and drops expressions by recursion without a guard: see `WORKER_STACK_BYTES`.
pub const MAX_EXPRESSION_DEPTH: usize = 256;

/// To name a call takes some 10 KiB of stack in a debug build, for each call that it is inside of.
const BRACKET_DEPTH: usize = 4;

/// UNION, INTERSECT and EXCEPT in one statement: each is one level of the plan.
pub const MAX_SET_OPERATIONS: usize = 128;

/// Placeholders in one statement, as in PostgreSQL's protocol.
pub const MAX_PARAMETERS: usize = 65_535;

/// The tokens of a text, without white space and comments, closed by an `EOF` that knows where it stands.
pub struct Tokens<'a> {
    text: &'a str,
    tokens: Vec<TokenWithSpan>,
    /// The first byte of each token, and the first after it.
    bytes: Vec<(usize, usize)>,
}

impl<'a> Tokens<'a> {
    pub fn of(text: &'a str) -> Result<Self> {
        let raw = Tokenizer::new(&LazaretDialect, text).tokenize_with_location().map_err(|error| {
            let Location { line, column } = error.location;
            Error::invalid(format!("syntax error: {}", lower_first(error.message.trim()))).at(line.max(1), column.max(1))
        })?;
        let mut offsets = Offsets::new(text);
        let mut starts: Vec<usize> = raw.iter().map(|token| offsets.at(token.span.start)).collect();
        starts.push(text.len());
        let (mut tokens, mut bytes) = (Vec::new(), Vec::new());
        for (token, window) in raw.into_iter().zip(starts.windows(2)) {
            if !matches!(token.token, Token::Whitespace(_)) {
                tokens.push(token);
                bytes.push((window[0], window[1]));
            }
        }
        let end = offsets.end();
        tokens.push(TokenWithSpan { token: Token::EOF, span: Span { start: end, end } });
        bytes.push((text.len(), text.len()));
        Ok(Self { text, tokens, bytes })
    }

    /// The pieces between top-level semicolons, without empty ones.
    pub fn split(&self) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        let mut first: Option<usize> = None;
        for (number, token) in self.tokens.iter().enumerate() {
            if matches!(token.token, Token::SemiColon | Token::EOF) {
                if let (Some(first), Some(last)) = (first.take(), number.checked_sub(1)) {
                    pieces.push(&self.text[self.bytes[first].0..self.bytes[last].1]);
                }
            } else {
                first.get_or_insert(number);
            }
        }
        pieces
    }

    /// Cuts off the semicolons at the end; what follows one is another statement.
    pub fn keep_one_statement(&mut self) -> Result<()> {
        let Some(semicolon) = self.tokens.iter().position(|token| token.token == Token::SemiColon) else { return Ok(()) };
        if let Some(next) = self.tokens[semicolon..].iter().find(|token| !matches!(token.token, Token::SemiColon | Token::EOF)) {
            let Location { line, column } = next.span.start;
            return Err(Error::invalid("one statement at a time").at(line, column));
        }
        let span = self.tokens[semicolon].span;
        self.tokens.truncate(semicolon);
        self.bytes.truncate(semicolon);
        self.tokens.push(TokenWithSpan { token: Token::EOF, span });
        let end = self.bytes.last().map_or(0, |(_, end)| *end);
        self.bytes.push((end, end));
        Ok(())
    }

    /// Rewrites `?` to `$1`, `$2`, … (DataFusion takes all `?` for one) and returns how many placeholders there are.
    /// Named ones are refused: Flight SQL binds by position, and no driver sends a name.
    pub fn number_placeholders(&mut self) -> Result<usize> {
        let mut questions = 0;
        let mut numbered: Vec<(usize, Position)> = Vec::new();
        for token in &mut self.tokens {
            let position = position_of(token.span.start);
            let Position { line, column } = position;
            let Token::Placeholder(text) = &token.token else { continue };
            if text == "?" {
                questions += 1;
                token.token = Token::Placeholder(format!("${questions}"));
            } else {
                let number = text.strip_prefix('$').filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
                match number.map(str::parse::<usize>) {
                    Some(Ok(number)) if (1..=MAX_PARAMETERS).contains(&number) => numbered.push((number, position)),
                    Some(_) => return Err(Error::invalid(format!("parameters are numbered $1 to ${MAX_PARAMETERS}")).at(line, column)),
                    None => return Err(Error::invalid(format!("named parameter {text}: write ? or $1")).at(line, column)),
                }
            }
            if questions > MAX_PARAMETERS {
                return Err(Error::invalid(format!("a statement has at most {MAX_PARAMETERS} parameters")).at(line, column));
            }
            if let (1.., Some((_, Position { line, column }))) = (questions, numbered.first()) {
                return Err(Error::invalid("parameters are written either as ? or as $1, not both").at(*line, *column));
            }
        }
        numbered.sort_by_key(|(number, _)| *number);
        let mut highest = 0;
        for (number, Position { line, column }) in numbered {
            if number > highest + 1 {
                return Err(Error::invalid(format!("parameter ${} is not used, but ${number} is", highest + 1)).at(line, column));
            }
            highest = number;
        }
        Ok(questions.max(highest))
    }

    /// Bounds what a parser that recurses, or a tree that is dropped by recursion, would be asked to do.
    pub fn check_size(&self) -> Result<()> {
        if self.tokens.len() > MAX_TOKENS {
            return Err(Error::new(ErrorKind::Exhausted, format!("a statement has at most {MAX_TOKENS} words and signs")));
        }
        let mut set_operations = 0;
        let mut levels = vec![Level::default()];
        let mut before = &Token::EOF;
        for token in &self.tokens {
            if is_word(&token.token, "UNION") || is_word(&token.token, "INTERSECT") || is_word(&token.token, "EXCEPT") {
                set_operations += 1;
            }
            let depth = nesting(&mut levels, &token.token, before);
            if is_word(&token.token, "INTERVAL") && is_word(before, "INTERVAL") {
                // sqlparser would recurse here without looking at its limit.
                let Position { line, column } = position_of(token.span.start);
                return Err(Error::invalid("syntax error: expected the interval's value, found \"INTERVAL\"").at(line, column));
            }
            before = &token.token;
            let what = if set_operations > MAX_SET_OPERATIONS {
                format!("a statement has at most {MAX_SET_OPERATIONS} set operations")
            } else if depth > MAX_EXPRESSION_DEPTH {
                format!("an expression is at most {MAX_EXPRESSION_DEPTH} operators deep, where a bracket counts as {BRACKET_DEPTH}")
            } else {
                continue;
            };
            let Position { line, column } = position_of(token.span.start);
            return Err(Error::new(ErrorKind::Exhausted, what).at(line, column));
        }
        Ok(())
    }

    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { tokens: self, at: 0 }
    }

    /// Where these unquoted words first stand, from token `from` on; the place of `from` if nowhere.
    pub fn find_words(&self, from: usize, words: &str) -> Position {
        let words: Vec<&str> = words.split(' ').collect();
        let found = (from..self.tokens.len()).find(|&at| {
            words.iter().enumerate().all(|(number, word)| self.tokens.get(at + number).is_some_and(|token| is_word(&token.token, word)))
        });
        self.position(found.unwrap_or(from))
    }

    /// Where the first such token stands, from token `from` on; the place of `from` if nowhere.
    pub fn find(&self, from: usize, wanted: impl Fn(&Token) -> bool) -> Position {
        self.position((from..self.tokens.len()).find(|&at| wanted(self.token(at))).unwrap_or(from))
    }

    pub fn token(&self, at: usize) -> &Token {
        self.tokens.get(at).map_or(&Token::EOF, |token| &token.token)
    }

    /// The number of the first token at or after a place.
    pub fn at(&self, place: Position) -> usize {
        let before = |token: &TokenWithSpan| (token.span.start.line, token.span.start.column) < (place.line, place.column);
        self.tokens.partition_point(before).min(self.end())
    }

    /// Where the token before the one at this place stands.
    pub fn before(&self, place: Position) -> Position {
        self.position(self.at(place).saturating_sub(1))
    }

    pub fn position(&self, at: usize) -> Position {
        self.tokens.get(at).or(self.tokens.last()).map_or(Position { line: 1, column: 1 }, |token| position_of(token.span.start))
    }

    /// Tokens `from..to`, closed by an `EOF` that stands where `to` does.
    pub fn slice(&self, from: usize, to: usize) -> Vec<TokenWithSpan> {
        let mut tokens: Vec<_> = self.tokens[from..to].to_vec();
        let span = self.tokens[to].span;
        tokens.push(TokenWithSpan { token: Token::EOF, span });
        tokens
    }

    /// The text that tokens `from..to` were read from, comments between them included.
    pub fn text(&self, from: usize, to: usize) -> &'a str {
        if from >= to { "" } else { &self.text[self.bytes[from].0..self.bytes[to - 1].1] }
    }

    /// The index of the closing `EOF`.
    pub fn end(&self) -> usize {
        self.tokens.len() - 1
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Token, (usize, usize))> {
        self.tokens.iter().map(|token| &token.token).zip(self.bytes.iter().copied())
    }
}

/// What is known of one open bracket: the operators of the chain being read, by how they bind, and its deepest operand.
#[derive(Clone, Copy, Default)]
struct Level {
    ors: usize,
    /// ANDs since the last OR, and the most between two ORs.
    ands: usize,
    most_ands: usize,
    /// Other operators since the last AND or OR, and the most between two.
    others: usize,
    most_others: usize,
    deepest_operand: usize,
    /// Of the chains before this one.
    deepest: usize,
}

impl Level {
    /// `a = 1 OR b = 2 OR …` is as deep as it has ORs, and one comparison.
    fn operators(&self) -> usize {
        self.ors + self.most_ands.max(self.ands) + self.most_others.max(self.others)
    }

    fn depth(&self) -> usize {
        self.deepest.max(self.operators() + self.deepest_operand)
    }

    fn add(&mut self, token: &Token) {
        if is_word(token, "OR") {
            self.ors += 1;
            self.most_ands = self.most_ands.max(std::mem::take(&mut self.ands));
            self.most_others = self.most_others.max(std::mem::take(&mut self.others));
        } else if is_word(token, "AND") {
            self.ands += 1;
            self.most_others = self.most_others.max(std::mem::take(&mut self.others));
        } else {
            self.others += 1;
        }
    }
}

/// Takes one more token into account; an upper bound for the depth of the tree so far.
fn nesting(levels: &mut Vec<Level>, token: &Token, before: &Token) -> usize {
    let opens = matches!(token, Token::LParen | Token::LBracket | Token::LBrace) || is_word(token, "CASE");
    let closes = matches!(token, Token::RParen | Token::RBracket | Token::RBrace) || is_word(token, "END");
    let ends_expression = matches!(token, Token::Comma)
        || ["SELECT", "WHERE", "ON", "HAVING", "BY"].iter().any(|word| is_word(token, word))
        || (is_word(token, "FROM") && !is_word(before, "DISTINCT"));
    if opens {
        if let (Token::LBracket, Some(level)) = (token, levels.last_mut()) {
            level.add(token);
        }
        levels.push(Level::default());
    } else if closes && levels.len() > 1 {
        let depth = levels.pop().unwrap_or_default().depth() + BRACKET_DEPTH;
        if let Some(level) = levels.last_mut() {
            level.deepest_operand = level.deepest_operand.max(depth);
        }
    } else if let Some(level) = levels.last_mut() {
        if ends_expression {
            *level = Level { deepest: level.depth(), ..Level::default() };
        } else if is_operator(token) {
            level.add(token);
        } else if is_word(token, "ARRAY") || is_word(token, "STRUCT") || is_word(token, "MAP") {
            // May open `ARRAY<…>`, whose end is not told apart from a comparison.
            level.others += BRACKET_DEPTH;
        }
    }
    let open: usize = levels.iter().map(|level| level.operators() + BRACKET_DEPTH).sum();
    open - BRACKET_DEPTH + levels.last().map_or(0, |level| level.deepest_operand)
}

fn is_operator(token: &Token) -> bool {
    const WORDS: [&str; 15] =
        ["AND", "OR", "NOT", "IS", "IN", "LIKE", "ILIKE", "BETWEEN", "SIMILAR", "AT", "COLLATE", "ISNULL", "NOTNULL", "XOR", "RLIKE"];
    match token {
        Token::Word(word) => word.quote_style.is_none() && WORDS.iter().any(|operator| word.value.eq_ignore_ascii_case(operator)),
        Token::EOF
        | Token::Number(..)
        | Token::Char(_)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::DollarQuotedString(_)
        | Token::NationalStringLiteral(_)
        | Token::EscapedStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::SingleQuotedByteStringLiteral(_)
        | Token::Placeholder(_)
        | Token::Whitespace(_)
        | Token::SemiColon
        | Token::Comma
        | Token::Period
        | Token::RParen
        | Token::RBracket
        | Token::RBrace => false,
        _ => true,
    }
}

/// Whether the token is this unquoted word, in any case.
pub fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// PostgreSQL's reserved words: as a name of anything they must be quoted, so that a forgotten name is noticed.
const RESERVED: [&str; 72] = [
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "using",
    "where",
];

/// Reads tokens from left to right.
#[derive(Clone)]
pub struct Cursor<'a> {
    tokens: &'a Tokens<'a>,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn tokens(&self) -> &'a Tokens<'a> {
        self.tokens
    }

    /// The number of the next token.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn peek(&self) -> &'a Token {
        &self.tokens.tokens[self.at].token
    }

    pub fn position(&self) -> Position {
        self.tokens.position(self.at)
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.tokens.end()
    }

    pub fn advance(&mut self) {
        if !self.is_at_end() {
            self.at += 1;
        }
    }

    /// Jumps forward to the end of the statement.
    pub fn skip_to_end(&mut self) {
        self.at = self.tokens.end();
    }

    pub fn is(&self, word: &str) -> bool {
        is_word(self.peek(), word)
    }

    /// Whether these words, written with single spaces, come next.
    pub fn is_at(&self, words: &str) -> bool {
        words
            .split(' ')
            .enumerate()
            .all(|(number, word)| self.tokens.tokens.get(self.at + number).is_some_and(|token| is_word(&token.token, word)))
    }

    /// Steps over these words if all of them come next.
    pub fn take(&mut self, words: &str) -> bool {
        let found = self.is_at(words);
        if found {
            self.at += words.split(' ').count();
        }
        found
    }

    pub fn expect(&mut self, word: &str) -> Result<()> {
        if self.take(word) { Ok(()) } else { Err(self.expected(word)) }
    }

    pub fn take_token(&mut self, token: &Token) -> bool {
        let found = self.peek() == token;
        if found {
            self.advance();
        }
        found
    }

    pub fn expect_token(&mut self, token: &Token) -> Result<()> {
        if self.take_token(token) { Ok(()) } else { Err(self.expected(format_args!("\"{token}\""))) }
    }

    /// Nothing may follow.
    pub fn expect_end(&self) -> Result<()> {
        if self.is_at_end() { Ok(()) } else { Err(self.expected("the end of the statement")) }
    }

    pub fn ident(&mut self, what: &str) -> Result<Ident> {
        let position = self.position();
        let text = match self.peek() {
            Token::Word(word) if word.quote_style.is_some() => word.value.clone(),
            Token::Word(word) => {
                let folded = word.value.to_ascii_lowercase();
                if RESERVED.contains(&folded.as_str()) {
                    return Err(self.expected(what));
                }
                folded
            }
            _ => return Err(self.expected(what)),
        };
        let ident = Ident::new(text, position)?;
        self.advance();
        Ok(ident)
    }

    /// `a`, `a.b` or `a.b.c`.
    pub fn object_name(&mut self, what: &str) -> Result<ObjectName> {
        let mut parts = vec![self.ident(what)?];
        while self.take_token(&Token::Period) {
            if parts.len() == 3 {
                let Position { line, column } = self.position();
                return Err(Error::invalid("a name has at most three parts: catalog.schema.table").at(line, column));
            }
            parts.push(self.ident("a name after the dot")?);
        }
        Ok(ObjectName::new(parts))
    }

    pub fn string(&mut self, what: &str) -> Result<String> {
        let text = match self.peek() {
            Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text) | Token::UnicodeStringLiteral(text) => text.clone(),
            Token::DollarQuotedString(text) => text.value.clone(),
            _ => return Err(self.expected(what)),
        };
        self.advance();
        Ok(text)
    }

    /// One or more of something, between commas.
    pub fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![one(self)?];
        while self.take_token(&Token::Comma) {
            items.push(one(self)?);
        }
        Ok(items)
    }

    /// Steps over `( … )` with whatever is between; the numbers of the first token inside and of the closing one.
    pub fn brackets(&mut self) -> Result<(usize, usize)> {
        self.expect_token(&Token::LParen)?;
        let first = self.at;
        let mut open = 1;
        while !self.is_at_end() {
            match self.peek() {
                Token::LParen => open += 1,
                Token::RParen => open -= 1,
                _ => {}
            }
            if open == 0 {
                let close = self.at;
                self.advance();
                return Ok((first, close));
            }
            self.advance();
        }
        Err(self.expected("\")\""))
    }

    /// A syntax error at the next token, which it names.
    pub fn expected(&self, what: impl fmt::Display) -> Error {
        let Position { line, column } = self.position();
        Error::invalid(format!("syntax error: expected {what}, found {}", describe(self.peek()))).at(line, column)
    }

    /// `what` is grammar of ours that is not built, and starts at the next token.
    pub fn unsupported(&self, what: impl fmt::Display) -> Error {
        let Position { line, column } = self.position();
        Error::unsupported(what).at(line, column)
    }
}

/// Longest token that an error repeats, in characters: enough to find it, and no way to blow up a header.
const SHOWN_TOKEN_CHARS: usize = 60;

/// A token as errors name it.
pub fn describe(token: &Token) -> String {
    if *token == Token::EOF {
        return "the end of the statement".to_owned();
    }
    shown(&token.to_string())
}

pub fn shown(token: &str) -> String {
    let text: String = token.chars().take(SHOWN_TOKEN_CHARS).map(|ch| if ch.is_control() { ' ' } else { ch }).collect();
    let cut = if token.chars().nth(SHOWN_TOKEN_CHARS).is_some() { "…" } else { "" };
    if text.starts_with(['\'', '"']) { format!("{text}{cut}") } else { format!("\"{text}{cut}\"") }
}

/// The text in the middle of a sentence: a first word in capitals is a keyword and stays.
pub fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    if chars.clone().nth(1).is_some_and(char::is_uppercase) {
        return text.to_owned();
    }
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn position_of(location: Location) -> Position {
    Position { line: location.line.max(1), column: location.column.max(1) }
}

/// From line and column, as the tokenizer counts them, to bytes. Asked in ascending order only.
struct Offsets<'a> {
    text: &'a str,
    byte: usize,
    line: u64,
    column: u64,
}

impl<'a> Offsets<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, byte: 0, line: 1, column: 1 }
    }

    fn at(&mut self, location: Location) -> usize {
        while (self.line, self.column) < (location.line, location.column) && self.step() {}
        self.byte
    }

    fn end(&mut self) -> Location {
        while self.step() {}
        Location { line: self.line, column: self.column }
    }

    fn step(&mut self) -> bool {
        let Some(ch) = self.text[self.byte..].chars().next() else { return false };
        self.byte += ch.len_utf8();
        if ch == '\n' {
            (self.line, self.column) = (self.line + 1, 1);
        } else {
            self.column += 1;
        }
        true
    }
}
