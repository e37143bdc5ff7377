//! Escapes foreign text, such as names of files, so that it is safe to show on a terminal and in logs.

use std::path::Path;

/// `text` with its line breaks and tabs. Other characters that control a terminal or reorder text are escaped.
pub fn legible(text: &str) -> String {
    spelled_out(text, |c| matches!(c, '\n' | '\t'))
}

/// Like [`legible`], but also escapes line breaks and tabs, so that a name stays on one line.
pub fn legible_name(name: &str) -> String {
    spelled_out(name, |_| false)
}

/// Like [`legible_name`], for a path.
pub fn legible_path(path: &Path) -> String {
    let text = path.display().to_string();
    // Windows takes both separators. With this one, its paths look like those in files, and need no quotes.
    legible_name(&if cfg!(windows) { text.replace('\\', "/") } else { text })
}

/// Equivalent JSON in which such characters are escaped.
pub fn legible_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        // Outside of strings, JSON has none of these characters except line breaks and tabs.
        if steers(c) && !matches!(c, '\n' | '\t') {
            shown += &format!("\\u{:04x}", u32::from(c))
        } else {
            shown.push(c)
        }
    }
    shown
}

fn spelled_out(text: &str, stays: fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) && !stays(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Control characters, and those that change the direction of the text around them (Unicode UAX #9, section 2).
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A path as one word of a command line.
pub fn shell_path(path: &Path) -> String {
    shell_word(legible_path(path))
}

/// A text as one word of a command line.
pub fn shell_word(text: String) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false if cfg!(windows) => format!("\"{}\"", text.replace('"', "\\\"")),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_a_terminal_is_spelled_out() {
        assert_eq!(legible("a\x1b]0;t\x07b\n\tc\r\u{9b}1m\u{202e}é"), "a\\u{1b}]0;t\\u{7}b\n\tc\\r\\u{9b}1m\\u{202e}é");
        assert_eq!(legible_name("a\nb"), "a\\nb");
    }

    proptest! {
        #[test]
        fn nothing_that_steers_is_left(text in "[\\PC\\p{Cc}\u{202e}]{0,20}") {
            prop_assert!(!legible_name(&text).chars().any(steers));
            let json = legible_json(&serde_json::to_string(&text).unwrap());
            prop_assert!(!json.chars().any(steers));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        assert_eq!(shell_path(Path::new("a/b.png")), "a/b.png");
        assert_eq!(shell_path(Path::new("a/b c")), "'a/b c'");
        assert_eq!(shell_path(Path::new("it's")), r"'it'\''s'");
    }
}
