//! Text from outside, made safe to print: a file name or a reason must not forge lines or colours.

use std::borrow::Cow;

/// The text with everything that moves the cursor, changes colours or turns the reading direction written as `\u{…}`.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) { safe.extend(c.escape_unicode()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// JSON with the same characters as `\uXXXX`, which is the same JSON. They can only stand within strings.
pub(super) fn printable_json(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Bidirectional controls (Unicode UAX #9), line and paragraph separator, soft hyphen, zero width characters,
            // tags.
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{ad}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_new_lines_and_reversed_text_are_shown_not_obeyed() {
        let nasty = [
            ("a\nerror: b", "a\\u{a}error: b"),
            ("\x1b[31mred", "\\u{1b}[31mred"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("gpj.\u{202e}exe", "gpj.\\u{202e}exe"),
            ("a\rb\tc\u{7f}", "a\\u{d}b\\u{9}c\\u{7f}"),
            ("a\u{2028}b", "a\\u{2028}b"),
        ];
        for (text, safe) in nasty {
            assert_eq!(printable(text), safe);
        }
    }

    #[test]
    fn ordinary_text_of_any_language_stays_as_it_is() {
        for text in ["report.mtd", "Größe", "報告書", "отчёт", "👩", "a\\b"] {
            assert_eq!(printable(text), text);
        }
    }

    #[test]
    fn safe_json_reads_as_the_same_json() {
        let value = serde_json::json!({"name": "a\u{9b}\u{202e}\u{e0001}\n\u{7f}é"});
        let safe = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!safe.chars().any(|c| c != '\n' && is_unsafe(c)), "{safe:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
