//! JSON as Go's `encoding/json` reads it: the first value of the input, duplicate keys kept, numbers kept as text, and its error texts.

use std::fmt;

use crate::limits::JSON_DEPTH_MAX;

/// One JSON value. Members of an object stay in input order with duplicates: the decoder lets the last one win.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it was written.
    Number(Box<str>),
    /// A string, unescaped.
    Text(String),
    /// An array.
    List(Vec<Node>),
    /// An object.
    Object(Vec<(String, Node)>),
}

/// Input that is not JSON. Texts are those of the original server's decoder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Nothing but white space.
    #[error("EOF")]
    Empty,
    /// The input ends inside a value.
    #[error("unexpected EOF")]
    Cut,
    /// A byte that cannot stand there.
    #[error("invalid character {} {context}", Quoted(*byte))]
    Byte {
        /// The byte.
        byte: u8,
        /// Where it stands.
        context: &'static str,
    },
    /// A byte inside `true`, `false` or `null`.
    #[error("invalid character {} in literal {literal} (expecting {})", Quoted(*byte), Quoted(*expected))]
    Literal {
        /// The byte.
        byte: u8,
        /// The literal.
        literal: &'static str,
        /// What belongs there.
        expected: u8,
    },
    /// More than [`JSON_DEPTH_MAX`] levels.
    #[error("exceeded max depth")]
    Depth,
}

/// A byte between single quotes, escaped as Go does.
struct Quoted(u8);

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b'\'' => f.write_str("'\\''"),
            b'"' => f.write_str("'\"'"),
            b'\\' => f.write_str("'\\\\'"),
            b'\n' => f.write_str("'\\n'"),
            b'\r' => f.write_str("'\\r'"),
            b'\t' => f.write_str("'\\t'"),
            0x07 => f.write_str("'\\a'"),
            0x08 => f.write_str("'\\b'"),
            0x0c => f.write_str("'\\f'"),
            0x0b => f.write_str("'\\v'"),
            b @ (0x20..=0x7e | 0xa1..=0xac | 0xae..) => write!(f, "'{}'", char::from(b)),
            b @ (..0x20 | 0x7f) => write!(f, "'\\x{b:02x}'"),
            b => write!(f, "'\\u{b:04x}'"),
        }
    }
}

/// Reads the first value; what follows it is not looked at.
///
/// # Errors
/// [`ScanError`] when there is none.
pub fn scan(bytes: &[u8]) -> Result<Node, ScanError> {
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.skip_space();
    if scanner.peek().is_none() {
        return Err(ScanError::Empty);
    }
    scanner.value(0)
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, ScanError> {
        let byte = self.peek().ok_or(ScanError::Cut)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The next byte that is not white space.
    fn next_token(&mut self) -> Result<u8, ScanError> {
        self.skip_space();
        self.next()
    }

    fn value(&mut self, depth: usize) -> Result<Node, ScanError> {
        if depth > JSON_DEPTH_MAX {
            return Err(ScanError::Depth);
        }
        match self.next_token()? {
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'"' => Ok(Node::Text(self.text()?)),
            b't' => self.literal("true", Node::Bool(true)),
            b'f' => self.literal("false", Node::Bool(false)),
            b'n' => self.literal("null", Node::Null),
            first @ (b'-' | b'0'..=b'9') => self.number(first),
            byte => Err(ScanError::Byte { byte, context: "looking for beginning of value" }),
        }
    }

    fn literal(&mut self, literal: &'static str, node: Node) -> Result<Node, ScanError> {
        for expected in literal.bytes().skip(1) {
            let byte = self.next()?;
            if byte != expected {
                return Err(ScanError::Literal { byte, literal, expected });
            }
        }
        Ok(node)
    }

    fn object(&mut self, depth: usize) -> Result<Node, ScanError> {
        let mut members = Vec::new();
        let mut token = self.next_token()?;
        if token == b'}' {
            return Ok(Node::Object(members));
        }
        loop {
            if token != b'"' {
                return Err(ScanError::Byte { byte: token, context: "looking for beginning of object key string" });
            }
            let key = self.text()?;
            match self.next_token()? {
                b':' => {}
                byte => return Err(ScanError::Byte { byte, context: "after object key" }),
            }
            members.push((key, self.value(depth + 1)?));
            match self.next_token()? {
                b',' => token = self.next_token()?,
                b'}' => return Ok(Node::Object(members)),
                byte => return Err(ScanError::Byte { byte, context: "after object key:value pair" }),
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Node, ScanError> {
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Node::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            match self.next_token()? {
                b',' => {}
                b']' => return Ok(Node::List(items)),
                byte => return Err(ScanError::Byte { byte, context: "after array element" }),
            }
        }
    }

    fn number(&mut self, first: u8) -> Result<Node, ScanError> {
        let start = self.at - 1;
        let lead = if first == b'-' { self.digit("in numeric literal")? } else { first };
        if lead != b'0' {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
            self.digits();
        }
        let text = self.bytes.get(start..self.at).unwrap_or_default();
        Ok(Node::Number(String::from_utf8_lossy(text).into()))
    }

    fn digit(&mut self, context: &'static str) -> Result<u8, ScanError> {
        match self.next()? {
            byte @ b'0'..=b'9' => Ok(byte),
            byte => Err(ScanError::Byte { byte, context }),
        }
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    /// A string after its opening quote. Bytes that are not UTF-8 become U+FFFD.
    fn text(&mut self) -> Result<String, ScanError> {
        let mut out = Vec::new();
        loop {
            let start = self.at;
            while matches!(self.peek(), Some(b) if b >= 0x20 && b != b'"' && b != b'\\') {
                self.at += 1;
            }
            out.extend_from_slice(self.bytes.get(start..self.at).unwrap_or_default());
            match self.next()? {
                b'"' => return Ok(lossy(out)),
                b'\\' => self.escape(&mut out)?,
                byte => return Err(ScanError::Byte { byte, context: "in string literal" }),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), ScanError> {
        let plain = match self.next()? {
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let unit = self.unit()?;
                let c = self.after_unit(unit)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            byte => return Err(ScanError::Byte { byte, context: "in string escape code" }),
        };
        out.push(plain);
        Ok(())
    }

    /// The character that begins with a UTF-16 unit: a lone surrogate is U+FFFD.
    fn after_unit(&mut self, unit: u32) -> Result<char, ScanError> {
        if !(0xd800..0xdc00).contains(&unit) || self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
            return Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let before = self.at;
        self.at += 2;
        let low = self.unit()?;
        if (0xdc00..0xe000).contains(&low) {
            let c = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
            return Ok(char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        self.at = before;
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn unit(&mut self) -> Result<u32, ScanError> {
        let mut unit = 0;
        for _ in 0..4 {
            let byte = self.next()?;
            let digit = char::from(byte).to_digit(16).ok_or(ScanError::Byte { byte, context: "in \\u hexadecimal character escape" })?;
            unit = unit << 4 | digit;
        }
        Ok(unit)
    }
}

fn lossy(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(err) => String::from_utf8_lossy(err.as_bytes()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn error_texts_are_those_of_the_original() {
        for (input, text) in [
            ("", "EOF"),
            (" \n", "EOF"),
            ("{", "unexpected EOF"),
            ("{\"a\":1", "unexpected EOF"),
            ("tru", "unexpected EOF"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{a}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("{\"a\":01}", "invalid character '1' after object key:value pair"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[-]", "invalid character ']' in numeric literal"),
            ("[1.]", "invalid character ']' after decimal point in numeric literal"),
            ("[1e]", "invalid character ']' in exponent of numeric literal"),
            ("[nul]", "invalid character ']' in literal null (expecting 'l')"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u00g0\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
        ] {
            assert_eq!(scan(input.as_bytes()).unwrap_err().to_string(), text, "{input}");
        }
    }

    #[test]
    fn what_follows_the_first_value_is_ignored() {
        assert_eq!(scan(b" {} x"), Ok(Node::Object(vec![])));
        assert_eq!(scan(b"12x"), Ok(Node::Number("12".into())));
    }

    #[test]
    fn strings_are_unescaped() {
        let text = |s: &str| Ok(Node::Text(s.to_owned()));
        assert_eq!(scan(br#""a\n\u00e9\ud83d\ude00""#), text("a\né😀"));
        assert_eq!(scan(br#""\ud800x""#), text("\u{fffd}x"));
        assert_eq!(scan(br#""\ud800\u0041""#), text("\u{fffd}A"));
        assert_eq!(scan(b"\"\xff\""), text("\u{fffd}"));
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(100_000);
        assert_eq!(scan(deep.as_bytes()), Err(ScanError::Depth));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(scan(&bytes));
        }

        #[test]
        fn agrees_with_serde_on_texts(text in ".*") {
            let json = serde_json::to_vec(&text).unwrap();
            prop_assert_eq!(scan(&json), Ok(Node::Text(text)));
        }
    }
}
