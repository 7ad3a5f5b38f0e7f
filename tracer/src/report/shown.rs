//! Text that is shown to people: cut to a length that leaves a line readable, and without anything that a terminal
//! would act on.

/// The most letters of a name; a host name with its port seldom has more.
const MOST: usize = 96;
/// So many of them from its end: there are the port, and the domain that was registered.
const END: usize = 31;
const ELLIPSIS: char = '…';

/// `name`, with an ellipsis for the middle of what is too long.
pub(super) fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= MOST {
        return name.to_owned();
    }
    let begin = name.chars().take(MOST - END - 1);
    begin.chain([ELLIPSIS]).chain(name.chars().skip(length - END)).collect()
}

/// `text` with everything but plain ASCII, and our own ellipsis, as `\u{…}`: whatever was read from the wire was
/// escaped then, but a report may also come from a file.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, ' '..='~' | ELLIPSIS) {
            plain.push(letter);
        } else {
            plain.extend(letter.escape_unicode());
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_name_is_left_out() {
        assert_eq!(shortened("en.wikipedia.org:443"), "en.wikipedia.org:443");
        let long = format!("begin{}.example.com:443", "x".repeat(4096));
        let short = shortened(&long);
        assert_eq!(short.chars().count(), MOST);
        assert!(short.starts_with("beginx") && short.contains("x…x") && short.ends_with("x.example.com:443"));
    }

    #[test]
    fn nothing_that_a_terminal_acts_on_is_left() {
        assert_eq!(plain("a\\x1b b…"), "a\\x1b b…");
        assert_eq!(plain("\u{1b}]52;c;\u{7}\n\u{202e}é"), r"\u{1b}]52;c;\u{7}\u{a}\u{202e}\u{e9}");
    }
}
