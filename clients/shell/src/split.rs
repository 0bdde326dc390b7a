//! Text into statements, at each `;` that is not in a string, a quoted name, a dollar-quoted text or a comment.

/// One thing to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Without its `;`. Begins at the statement's first word, so that lines and columns of errors count from there.
    Sql(String),
    /// `\d name`
    Command(String),
}

/// A text, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub items: Vec<Item>,
    /// What follows the last `;`, where it is more than spaces and comments.
    pub rest: Option<Item>,
}

pub fn split(text: &str) -> Script {
    let mut script = Script::default();
    let mut lexer = Lexer { text, at: 0 };
    loop {
        lexer.skip_spaces();
        let begin = lexer.at;
        if lexer.peek() == Some(b'\\') {
            let end = text[begin..].find('\n').map_or(text.len(), |length| begin + length);
            let command = text[begin..end].trim_end().trim_end_matches(';').trim_end();
            script.items.push(Item::Command(command.to_owned()));
            lexer.at = end;
            continue;
        }
        let (mut first_word, mut is_ended) = (None, false);
        while let Some(token) = lexer.next_token() {
            match token {
                Token::Space => {}
                Token::Semicolon => {
                    is_ended = true;
                    break;
                }
                Token::Other(at) => {
                    first_word.get_or_insert(at);
                }
            }
        }
        match first_word {
            Some(from) if is_ended => script.items.push(Item::Sql(text[from..lexer.at - 1].trim_end().to_owned())),
            Some(from) => script.rest = Some(Item::Sql(text[from..].trim_end().to_owned())),
            None => {}
        }
        if !is_ended {
            return script;
        }
    }
}

enum Token {
    /// Spaces and comments.
    Space,
    Semicolon,
    /// Where it begins.
    Other(usize),
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn next_token(&mut self) -> Option<Token> {
        let begin = self.at;
        let rest = self.rest();
        let first = rest.chars().next()?;
        if first.is_whitespace() {
            self.skip_spaces();
        } else if rest.starts_with("--") {
            self.at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            self.skip_block_comment();
        } else if first == ';' {
            self.at += 1;
            return Some(Token::Semicolon);
        } else {
            match first {
                '\'' => self.skip_quoted('\'', false),
                '"' => self.skip_quoted('"', false),
                '$' => self.skip_dollar(),
                _ if first.is_alphanumeric() || first == '_' => self.skip_word(),
                _ => self.at += first.len_utf8(),
            }
            return Some(Token::Other(begin));
        }
        Some(Token::Space)
    }

    /// A word, with the string that follows it at once: in `E'…'` a backslash takes away the meaning of a quote.
    fn skip_word(&mut self) {
        let rest = self.rest();
        let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
        let is_escape = rest[..length].eq_ignore_ascii_case("e");
        self.at += length;
        if is_escape && self.peek() == Some(b'\'') {
            self.skip_quoted('\'', true);
        }
    }

    /// A doubled quote stands for itself: it ends one string and begins another, which comes to the same.
    fn skip_quoted(&mut self, quote: char, has_escapes: bool) {
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((offset, c)) = chars.next() {
            if has_escapes && c == '\\' {
                chars.next();
            } else if c == quote {
                self.at += offset + 1;
                return;
            }
        }
        self.at = self.text.len();
    }

    /// `$$…$$` or `$tag$…$tag$`; a lone dollar is a placeholder such as `$1`.
    fn skip_dollar(&mut self) {
        let rest = self.rest();
        let tag_length = rest[1..].find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len() - 1);
        let has_digit_first = rest[1..].starts_with(|c: char| c.is_ascii_digit());
        if has_digit_first || !rest[1 + tag_length..].starts_with('$') {
            self.at += 1;
            return;
        }
        let tag = &rest[..tag_length + 2];
        let length = rest[tag.len()..].find(tag).map_or(rest.len(), |end| end + 2 * tag.len());
        self.at += length;
    }

    /// Comments nest, as in PostgreSQL.
    fn skip_block_comment(&mut self) {
        let mut depth = 0_usize;
        while self.at < self.text.len() {
            let rest = self.rest();
            if rest.starts_with("/*") {
                depth += 1;
                self.at += 2;
            } else if rest.starts_with("*/") {
                depth -= 1;
                self.at += 2;
                if depth == 0 {
                    return;
                }
            } else {
                self.at += rest.chars().next().map_or(1, char::len_utf8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(text: &str) -> Item {
        Item::Sql(text.to_owned())
    }

    #[test]
    fn statements_end_at_semicolons() {
        let script = split("SELECT 1; select 2 ;\n;; SELECT 3");
        assert_eq!(script.items, [sql("SELECT 1"), sql("select 2")]);
        assert_eq!(script.rest, Some(sql("SELECT 3")));
    }

    #[test]
    fn semicolons_inside_things_do_not_count() {
        for text in [
            "SELECT ';', 'it''s; fine'",
            "SELECT \"a;b\"\"c;\"",
            "SELECT $$a;b$$, $x$ $$;$$ ; $x$",
            "SELECT 1 -- one; two\n + 2",
            "SELECT 1 /* a; /* b; */ c; */ + 2",
            "SELECT E'\\';', e'\\\\'",
            "SELECT $1 + $2, a$b",
            "SELECT 'ä;ö', \u{1F600}",
        ] {
            let script = split(&format!("{text};"));
            assert_eq!(script.items, [sql(text)], "{text}");
            assert_eq!(script.rest, None, "{text}");
        }
    }

    #[test]
    fn what_is_not_ended_is_the_rest() {
        for text in ["SELECT 'a;", "SELECT \"a;", "SELECT $$ a; $", "SELECT 1 /* ;", "SELECT 1 -- ;"] {
            assert_eq!(split(text), Script { items: vec![], rest: Some(sql(text)) }, "{text}");
        }
    }

    #[test]
    fn spaces_and_comments_are_nothing_to_run() {
        assert_eq!(split("  \n -- nothing;\n /* ; */ "), Script::default());
        assert_eq!(split("-- first\nSELECT 1;").items, [sql("SELECT 1")]);
    }

    #[test]
    fn commands_end_with_their_line() {
        let script = split("\\d t;\nSELECT '\\d';\n  \\x\nSELECT 2");
        assert_eq!(script.items, [Item::Command("\\d t".to_owned()), sql("SELECT '\\d'"), Item::Command("\\x".to_owned())]);
        assert_eq!(script.rest, Some(sql("SELECT 2")));
    }
}
