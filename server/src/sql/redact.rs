//! Statement text as it may be kept (audit, `system.queries`, log): without passwords, tokens and secrets, also when the
//! statement does not parse.

use datafusion::sql::sqlparser::tokenizer::Token;
use lazaret_auth::hide_tokens;

use super::tokens::{Tokens, is_word};

const HIDDEN: &str = "'***'";

/// Parts of an option's key that make its value a secret.
const SECRET_KEYS: [&str; 7] = ["secret", "password", "passwd", "token", "key", "credential", "signature"];

/// Words after which nothing of a text that cannot be read as tokens is kept.
const SECRET_WORDS: [&str; 2] = ["password", "secret"];

/// The text with the values of passwords and of options that look secret replaced by `'***'`, and the tokens of service
/// accounts by `lzt_***`.
pub fn redact(text: &str) -> String {
    hide_tokens(without_values(text))
}

fn without_values(text: &str) -> String {
    let Ok(tokens) = Tokens::of(text) else { return cut_after_secret_word(text) };
    let tokens: Vec<(&Token, (usize, usize))> = tokens.iter().filter(|(token, _)| **token != Token::EOF).collect();
    let mut kept = String::with_capacity(text.len());
    let mut copied = 0;
    let mut statement = 0;
    // For each bracket that is open, whether it holds options.
    let mut brackets = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (token, (start, end)) = tokens[at];
        match token {
            Token::LParen => brackets.push(at.checked_sub(1).is_some_and(|before| begins_options(tokens[before].0))),
            Token::RParen => drop(brackets.pop()),
            _ => {}
        }
        if *token == Token::SemiColon {
            statement = at + 1;
        } else if is_word(token, "PASSWORD") {
            let user = is_user_statement(&tokens[statement..at]);
            let next = tokens.get(at + 1).map(|(token, _)| *token);
            let alone = tokens.get(at + 2).is_none_or(|(token, _)| **token == Token::SemiColon);
            if user && !(alone && next.is_some_and(is_literal)) {
                // A quote in the password, or the wrong quotes: where it ends cannot be known.
                if next.is_some() {
                    kept.push_str(&text[copied..end]);
                    kept.push(' ');
                    kept.push_str(HIDDEN);
                    return kept;
                }
            } else if next.is_some_and(is_literal) {
                let (start, end) = tokens[at + 1].1;
                kept.push_str(&text[copied..start]);
                kept.push_str(HIDDEN);
                copied = end;
                at += 1;
            }
        } else if brackets.last() == Some(&true)
            && let Some(value) = secret_option(&tokens, at)
        {
            let (start, end) = tokens[value].1;
            kept.push_str(&text[copied..start]);
            kept.push_str(HIDDEN);
            copied = end;
            at = value;
        } else if is_literal(token)
            && let Some(shown) = without_user_info(&text[start..end])
        {
            kept.push_str(&text[copied..start]);
            kept.push_str(&shown);
            copied = end;
        }
        at += 1;
    }
    kept.push_str(&text[copied..]);
    kept
}

/// Elsewhere a bracket holds what a query asks, which nobody may hide from the audit under a name that sounds secret.
fn begins_options(word: &Token) -> bool {
    is_word(word, "OPTIONS") || is_word(word, "WITH")
}

fn is_user_statement(before: &[(&Token, (usize, usize))]) -> bool {
    let [(verb, _), (noun, _), ..] = before else { return false };
    (is_word(verb, "CREATE") || is_word(verb, "ALTER")) && is_word(noun, "USER")
}

fn is_literal(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::HexStringLiteral(_)
    ) || matches!(token, Token::Word(word) if word.quote_style.is_some())
}

/// Whether an option of a secret name begins at `at`, after `(` or `,`: which token is its value.
fn secret_option(tokens: &[(&Token, (usize, usize))], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).map(|before| tokens[before].0);
    if !matches!(before, Some(Token::LParen | Token::Comma)) {
        return None;
    }
    let (key, mut next) = match tokens[at].0 {
        Token::SingleQuotedString(key) => (key.clone(), at + 1),
        Token::Word(_) => {
            let mut key = String::new();
            let mut next = at;
            while let Some((Token::Word(part), _)) = tokens.get(next) {
                key.push_str(&part.value);
                next += 1;
                if !matches!(tokens.get(next), Some((Token::Period, _))) {
                    break;
                }
                next += 1;
            }
            (key, next)
        }
        _ => return None,
    };
    let key = key.to_ascii_lowercase();
    if !SECRET_KEYS.iter().any(|secret| key.contains(secret)) {
        return None;
    }
    if matches!(tokens.get(next), Some((Token::Eq | Token::RArrow, _))) {
        next += 1;
    }
    tokens.get(next).filter(|(token, _)| is_literal(token)).map(|_| next)
}

/// `'s3://user:secret@host/…'` without what stands before the `@`.
fn without_user_info(literal: &str) -> Option<String> {
    let (scheme, rest) = literal.split_once("://")?;
    let authority = rest.split(['/', '?', '#', '\'']).next()?;
    let (_, host) = authority.rsplit_once('@')?;
    Some(format!("{scheme}://***@{host}{}", &rest[authority.len()..]))
}

fn cut_after_secret_word(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let cut = SECRET_WORDS.iter().filter_map(|word| lower.find(word).map(|at| at + word.len())).min();
    match cut {
        Some(cut) => format!("{} {HIDDEN}", &text[..cut]),
        None => text.to_owned(),
    }
}
