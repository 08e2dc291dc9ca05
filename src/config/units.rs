//! Numbers with units and lists in one string, as PM2's users write them.

/// Memory in bytes: a number, or digits followed by `K`, `M` or `G` (powers of 1024). PM2 takes capital letters alone;
/// `500mb`, which people write and it refuses, cannot be misunderstood either.
pub(super) fn memory(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor: u64 = match unit.to_ascii_uppercase().as_str() {
        "" => 1,
        "K" | "KB" => 1 << 10,
        "M" | "MB" => 1 << 20,
        "G" | "GB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Time in milliseconds: a number, or a number followed by `ms`, `s`, `m` or `h`.
pub(super) fn millis(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "" | "ms" => 1.0,
        "s" => 1e3,
        "m" => 60e3,
        "h" => 3600e3,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    let ms = (number * factor).round();
    // 2^53: beyond it JSON numbers stop being exact, and no timeout is 285 thousand years.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    (0.0..9_007_199_254_740_992.0).contains(&ms).then_some(ms as u64)
}

/// Splits an argument line at spaces, keeping what stands in `"` or `'` together, as PM2 does: no escapes, no
/// variables. A quote that is never closed is taken as a character.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' | '\'' if rest.as_str().contains(c) => {
                let word = word.get_or_insert_with(String::new);
                word.extend(rest.by_ref().take_while(|inner| *inner != c));
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

/// Splits a list at commas and spaces.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_takes_units_of_1024() {
        let table = [
            ("100", Some(100)),
            ("2K", Some(2048)),
            ("150M", Some(150 << 20)),
            ("1G", Some(1 << 30)),
            ("100MB", Some(100 << 20)),
            ("100m", Some(100 << 20)),
            ("1T", None),
            ("1.5G", None),
            ("10 M", None),
            ("+1", None),
            ("-1M", None),
            ("M", None),
            ("", None),
            ("99999999999999999999G", None),
            ("18446744073709551615K", None),
        ];
        for (text, bytes) in table {
            assert_eq!(memory(text), bytes, "{text}");
        }
    }

    #[test]
    fn millis_takes_numbers_and_units() {
        let table = [
            ("1600", Some(1600)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("0", Some(0)),
            ("-1", None),
            ("1d", None),
            ("s", None),
            ("", None),
            ("nan", None),
            ("1e30", None),
        ];
        for (text, ms) in table {
            assert_eq!(millis(text), ms, "{text}");
        }
    }

    #[test]
    fn words_keep_quoted_parts_together() {
        let table: [(&str, &[&str]); 7] = [
            ("-a  b", &["-a", "b"]),
            ("--title \"my app\" x", &["--title", "my app", "x"]),
            ("--title='my app'", &["--title=my app"]),
            ("''", &[""]),
            ("it's", &["it's"]),
            ("", &[]),
            (" a\tb\n", &["a", "b"]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line), expected, "{line}");
        }
    }
}
