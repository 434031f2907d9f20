//! Text for terminals and scripts.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// The same text, with everything escaped that a terminal could obey or that nobody can see: control characters,
/// changes of the direction of writing, invisible characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, character| {
        match character {
            // Part of what is escaped, so that it cannot be imitated.
            '\\' => escaped.push_str(r"\\"),
            shown if is_shown(shown) => escaped.push(shown),
            hidden => escaped.extend(hidden.escape_debug()),
        }
        escaped
    })
}

/// The same for bytes, of which those that are no UTF-8 are escaped.
pub(crate) fn printable_bytes(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::new(), |mut escaped, chunk| {
        escaped += &printable(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(escaped, r"\x{byte:02x}");
        }
        escaped
    })
}

fn is_shown(character: char) -> bool {
    matches!(character, '"' | '\'') || character.escape_debug().count() == 1
}

/// One line of JSON. Characters that are not [shown](is_shown) are escaped, which a reader undoes: they are in
/// strings only.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string(value)?;
    Ok(text.chars().fold(String::new(), |mut escaped, character| {
        if character.is_ascii_graphic() || character == ' ' || is_shown(character) {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, r"\u{unit:04x}");
            }
        }
        escaped
    }))
}

/// To standard output; an error, and no panic, where nobody reads it any more.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        output.write_all(b"\n")?;
    }
    output.flush()
}

/// Columns and lines of the terminal that standard output is, if it is one.
pub(crate) fn terminal() -> Option<(u16, u16)> {
    let output = io::stdout();
    if !output.is_terminal() {
        return None;
    }
    match rustix::termios::tcgetwinsize(output) {
        Ok(size) if size.ws_col > 0 => Some((size.ws_col, size.ws_row)),
        _ => Some((80, 24)),
    }
}

/// As `ls -h` writes it.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

    let (mut value, mut unit) = (bytes as f64, None);
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = Some(next);
    }
    match unit {
        None => bytes.to_string(),
        Some(unit) if value < 9.95 => format!("{value:.1}{unit}"),
        Some(unit) => format!("{value:.0}{unit}"),
    }
}

/// A number of bytes, as `64M` or `1GiB`; units are powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("expected a number of bytes, such as 4096, 64K, 64M or 2G".to_owned()),
    };
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "that many bytes cannot exist".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        let hostile = "a\x1b[2J\r\n\u{9b}2J\u{7f}\u{202e}\u{200b}\u{feff}\u{2028}b";
        let escaped = printable(hostile);
        assert!(escaped.starts_with('a') && escaped.ends_with('b'), "{escaped}");
        assert!(escaped.is_ascii() && !escaped.contains(char::is_control), "{escaped}");
        assert_eq!(printable("Wayland \"é\" 'ü' 日本"), "Wayland \"é\" 'ü' 日本");
        assert_eq!(printable(r"\u{1b}"), r"\\u{1b}");
        assert_eq!(printable_bytes(b"a\xff\x1bb"), r"a\xff\u{1b}b");
    }

    #[test]
    fn json_is_as_harmless_and_says_exactly_the_same() {
        let hostile = "\"a\\\x1b[2J\u{9b}\u{202e}\u{e0001}日";
        let text = json(&hostile).unwrap();
        assert!(!text.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\u{e0001}']), "{text}");
        assert!(text.contains('日'), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), hostile);
    }

    #[test]
    fn sizes_are_written_and_read() {
        let written = [0, 1023, 1024, 1536, 10 << 10, 10188, 1 << 30, u64::MAX].map(size);
        assert_eq!(written, ["0", "1023", "1.0K", "1.5K", "10K", "9.9K", "1.0G", "16E"]);
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("17"), Ok(17));
        for wrong in ["", "M", "1.5M", "-1", "1Q", "99999999999T", "99999999999999999999"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
