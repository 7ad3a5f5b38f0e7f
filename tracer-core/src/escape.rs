//! Escapes text from outside: for a terminal, and for formats that allow only printable ASCII.

use std::borrow::Cow;

/// Escapes, as `\u{…}`, every character that a terminal would act on or that would hide or reorder others.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_unless(text, |character| !is_unsafe(character))
}

/// Escapes, as `\u{…}`, every character but printable ASCII and the ellipsis that marks a cut text.
pub(crate) fn escape_to_ascii(text: &str) -> Cow<'_, str> {
    escape_unless(text, |character| matches!(character, ' '..='~' | '…'))
}

/// Escapes bytes from the wire to printable ASCII, as [`u8::escape_ascii`] does but for quotes, which are harmless. A
/// backslash is escaped too, so the result is unambiguous.
pub(crate) fn escape_bytes<T: for<'a> From<&'a str> + FromIterator<char>>(bytes: &[u8]) -> T {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(is_plain) => text.into(),
        Ok(_) | Err(_) => bytes.iter().flat_map(|&byte| escape_byte(byte)).map(char::from).collect(),
    }
}

fn escape_byte(byte: u8) -> impl Iterator<Item = u8> {
    let quote = matches!(byte, b'"' | b'\'').then_some(byte);
    let other = quote.is_none().then(|| byte.escape_ascii());
    quote.into_iter().chain(other.into_iter().flatten())
}

fn escape_unless(text: &str, is_safe: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&is_safe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_safe(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_unicode());
        }
    }
    Cow::Owned(escaped)
}

fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            // Zero width, line and paragraph separators, bidirectional overrides and isolates, the byte order mark.
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_controls_and_hidden_characters_are_escaped() {
        assert_eq!(escape("plain ü text"), "plain ü text");
        assert_eq!(escape("a\u{1b}[31mb\u{202e}c\u{9b}"), "a\\u{1b}[31mb\\u{202e}c\\u{9b}");
    }

    #[test]
    fn everything_but_printable_ascii_and_the_ellipsis_is_escaped() {
        assert_eq!(escape_to_ascii("a\\x1b b…"), "a\\x1b b…");
        assert_eq!(escape_to_ascii("\u{1b}]52;c;\u{7}\n\u{202e}é"), r"\u{1b}]52;c;\u{7}\u{a}\u{202e}\u{e9}");
    }

    #[test]
    fn bytes_are_escaped_to_ascii_and_quotes_stay() {
        assert_eq!(escape_bytes::<String>(b"a\x1b[31m\x00\xff:\"443'\\"), "a\\x1b[31m\\x00\\xff:\"443'\\\\");
    }
}
