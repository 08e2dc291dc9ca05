//! dayjs's `format()`, for the time formats of PM2's users. Pure.
//!
//! Every token of dayjs without plugins, as PM2 uses it, with English names. What is in brackets is taken as it is, and
//! so is everything that is no token.

use jiff::Zoned;
use jiff::civil::Weekday;

/// Tokens, longest first where one begins with another.
const TOKENS: &[&str] = &[
    "YYYY", "YY", "MMMM", "MMM", "MM", "M", "DD", "D", "dddd", "ddd", "dd", "d", "HH", "H", "hh", "h", "A", "a", "mm",
    "m", "ss", "s", "SSS", "ZZ", "Z",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A format cut into what is replaced and what stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    Token(&'static str),
    Text(&'a str),
}

/// `at` in this format.
#[must_use]
pub fn format(format: &str, at: &Zoned) -> String {
    let mut text = String::with_capacity(format.len() + 8);
    parts(format, |part| match part {
        Part::Token(token) => text.push_str(&token_text(token, at)),
        Part::Text(literal) => text.push_str(literal),
    });
    text
}

/// A regular expression that matches what [`format`] makes of this format, and little else.
#[must_use]
pub fn pattern(format: &str) -> String {
    let mut pattern = String::new();
    parts(format, |part| match part {
        Part::Token(token) => pattern.push_str(token_pattern(token)),
        Part::Text(literal) => pattern.push_str(&regex::escape(literal)),
    });
    pattern
}

/// Reads back times that [`format`] wrote.
#[derive(Debug)]
pub struct Reader {
    pattern: regex::bytes::Regex,
    tokens: Vec<&'static str>,
}

impl Reader {
    /// Of a format that tells day and hour at least; `None` for one that tells less.
    #[must_use]
    pub fn of(format: &str) -> Option<Reader> {
        let (mut text, mut tokens) = (String::from("^"), Vec::new());
        parts(format, |part| match part {
            Part::Token(token) => {
                text.push('(');
                text.push_str(token_pattern(token));
                text.push(')');
                tokens.push(token);
            }
            Part::Text(literal) => text.push_str(&regex::escape(literal)),
        });
        let tells = |some: &[&str]| some.iter().any(|token| tokens.contains(token));
        let half = tells(&["hh", "h"]) && tells(&["A", "a"]);
        let enough = tells(&["YYYY", "YY"])
            && tells(&["MMMM", "MMM", "MM", "M"])
            && tells(&["DD", "D"])
            && (half || tells(&["HH", "H"]));
        let pattern = regex::bytes::Regex::new(&text).ok().filter(|_| enough)?;
        Some(Reader { pattern, tokens })
    }

    /// The time at the start of this line, in milliseconds since the epoch; local where it does not tell a zone.
    #[must_use]
    pub fn read(&self, line: &[u8]) -> Option<i64> {
        let captures = self.pattern.captures(line)?;
        let mut fields = [1i64, 1, 1, 0, 0, 0, 0];
        let (mut afternoon, mut offset) = (None, None);
        for (token, at) in self.tokens.iter().zip(1..) {
            let text = std::str::from_utf8(captures.get(at)?.as_bytes()).ok()?;
            let number = || text.parse::<i64>().ok();
            match *token {
                "YYYY" => fields[0] = number()?,
                "YY" => fields[0] = 2000 + number()?,
                "MMMM" | "MMM" => {
                    fields[1] = MONTHS.iter().zip(1..).find(|(month, _)| month.starts_with(text))?.1;
                }
                "MM" | "M" => fields[1] = number()?,
                "DD" | "D" => fields[2] = number()?,
                "HH" | "H" | "hh" | "h" => fields[3] = number()?,
                "mm" | "m" => fields[4] = number()?,
                "ss" | "s" => fields[5] = number()?,
                "SSS" => fields[6] = number()?,
                "A" | "a" => afternoon = Some(text.eq_ignore_ascii_case("pm")),
                "Z" | "ZZ" => offset = Some(minutes(text)?),
                _ => {}
            }
        }
        if let Some(afternoon) = afternoon.filter(|_| !self.tokens.iter().any(|token| token.starts_with('H'))) {
            fields[3] = fields[3] % 12 + if afternoon { 12 } else { 0 };
        }
        let small = |field: usize| i8::try_from(fields[field]).ok();
        let time = jiff::civil::DateTime::new(
            i16::try_from(fields[0]).ok()?,
            small(1)?,
            small(2)?,
            small(3)?,
            small(4)?,
            small(5)?,
            i32::try_from(fields[6] * 1_000_000).ok()?,
        );
        let zone = match offset {
            Some(minutes) => jiff::tz::TimeZone::fixed(jiff::tz::Offset::from_seconds(minutes * 60).ok()?),
            None => jiff::tz::TimeZone::system(),
        };
        Some(time.ok()?.to_zoned(zone).ok()?.timestamp().as_millisecond())
    }
}

/// `+05:30` or `+0530` in minutes.
fn minutes(offset: &str) -> Option<i32> {
    let digits: String = offset.chars().filter(char::is_ascii_digit).collect();
    let (hours, minutes) = digits.split_at_checked(2)?;
    let minutes = hours.parse::<i32>().ok()? * 60 + minutes.parse::<i32>().ok()?;
    Some(if offset.starts_with('-') { -minutes } else { minutes })
}

/// Whether two times in the same second can look different in this format.
#[must_use]
pub fn shows_milliseconds(format: &str) -> bool {
    let mut shows = false;
    parts(format, |part| shows |= matches!(part, Part::Token("SSS")));
    shows
}

fn parts<'a>(mut format: &'a str, mut each: impl FnMut(Part<'a>)) {
    while let Some(first) = format.chars().next() {
        let bracketed = format.strip_prefix('[').and_then(|inner| inner.split_once(']'));
        if let Some((literal, rest)) = bracketed.filter(|(literal, _)| !literal.is_empty()) {
            each(Part::Text(literal));
            format = rest;
        } else if let Some(token) = TOKENS.iter().find(|token| format.starts_with(**token)) {
            each(Part::Token(token));
            format = &format[token.len()..];
        } else {
            let (literal, rest) = format.split_at(first.len_utf8());
            each(Part::Text(literal));
            format = rest;
        }
    }
}

fn token_text(token: &str, at: &Zoned) -> String {
    let month = MONTHS[usize::from(at.month().unsigned_abs().clamp(1, 12)) - 1];
    let weekday = weekday_name(at.weekday());
    let hour_12 = if at.hour() % 12 == 0 { 12 } else { at.hour() % 12 };
    match token {
        "YYYY" => format!("{:04}", at.year()),
        "YY" => format!("{:02}", at.year().rem_euclid(100)),
        "MMMM" => month.to_owned(),
        "MMM" => month[..3].to_owned(),
        "MM" => format!("{:02}", at.month()),
        "M" => at.month().to_string(),
        "DD" => format!("{:02}", at.day()),
        "D" => at.day().to_string(),
        "dddd" => weekday.to_owned(),
        "ddd" => weekday[..3].to_owned(),
        "dd" => weekday[..2].to_owned(),
        "d" => at.weekday().to_sunday_zero_offset().to_string(),
        "HH" => format!("{:02}", at.hour()),
        "H" => at.hour().to_string(),
        "hh" => format!("{hour_12:02}"),
        "h" => hour_12.to_string(),
        "A" => if at.hour() < 12 { "AM" } else { "PM" }.to_owned(),
        "a" => if at.hour() < 12 { "am" } else { "pm" }.to_owned(),
        "mm" => format!("{:02}", at.minute()),
        "m" => at.minute().to_string(),
        "ss" => format!("{:02}", at.second()),
        "s" => at.second().to_string(),
        "SSS" => format!("{:03}", at.millisecond()),
        "Z" => offset(at, ":"),
        _ => offset(at, ""),
    }
}

fn token_pattern(token: &str) -> &'static str {
    match token {
        "YYYY" => r"\d{4}",
        "SSS" => r"\d{3}",
        "YY" | "MM" | "DD" | "HH" | "hh" | "mm" | "ss" => r"\d{2}",
        "M" | "D" | "H" | "h" | "m" | "s" => r"\d{1,2}",
        "d" => r"\d",
        "dddd" => "(?:Sun|Mon|Tues|Wednes|Thurs|Fri|Satur)day",
        "ddd" => "(?:Sun|Mon|Tue|Wed|Thu|Fri|Sat)",
        "dd" => "(?:Su|Mo|Tu|We|Th|Fr|Sa)",
        "MMMM" => "(?:January|February|March|April|May|June|July|August|September|October|November|December)",
        "MMM" => "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)",
        "A" => "(?:AM|PM)",
        "a" => "(?:am|pm)",
        "Z" => r"[+-]\d{2}:\d{2}",
        _ => r"[+-]\d{4}",
    }
}

fn weekday_name(weekday: Weekday) -> &'static str {
    match weekday {
        Weekday::Sunday => "Sunday",
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
    }
}

/// dayjs knows offsets in whole minutes.
fn offset(at: &Zoned, separator: &str) -> String {
    let minutes = at.offset().seconds() / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{:02}{separator}{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    #[test]
    fn pm2s_usual_formats() {
        let time = at("2026-11-21T01:57:06.004+01:00[Europe/Berlin]");
        assert_eq!(format("YYYY-MM-DDTHH:mm:ss", &time), "2026-11-21T01:57:06");
        assert_eq!(format("YYYY-MM-DD HH:mm:ss.SSS Z", &time), "2026-11-21 01:57:06.004 +01:00");
        assert_eq!(format("DD/MM/YY hh:mm A [at] ZZ", &time), "21/11/26 01:57 AM at +0100");
        assert_eq!(format("ddd MMM D H:m:s a", &time), "Sat Nov 21 1:57:6 am");
        assert_eq!(format("YYYY-MM-DD_HH-mm-ss", &time), "2026-11-21_01-57-06");
    }

    /// What dayjs 1.11 itself makes of these: `tests/golden/dayjs.js` writes them down.
    #[test]
    fn as_dayjs_does() {
        let golden: Vec<(String, i64, String, String)> =
            serde_json::from_str(include_str!("../../tests/golden/dayjs.json")).unwrap();
        assert!(golden.len() > 200);
        for (zone, millisecond, wanted, expected) in golden {
            let time = jiff::Timestamp::from_millisecond(millisecond).unwrap().in_tz(&zone).unwrap();
            assert_eq!(format(&wanted, &time), expected, "`{wanted}` of {millisecond} in {zone}");
        }
    }

    #[test]
    fn what_is_no_token_stays() {
        let time = at("2026-11-21T00:00:00+00:00[UTC]");
        assert_eq!(format("[YYYY] [", &time), "YYYY [");
        assert_eq!(format("{y} über!", &time), "{y} über!");
        assert_eq!(format("", &time), "");
        assert_eq!(format("[]D X", &time), "[]21 X");
    }

    #[test]
    fn hours_around_midnight_and_noon() {
        let midnight = at("2026-01-01T00:30:00+00:00[UTC]");
        let noon = at("2026-01-01T12:30:00+00:00[UTC]");
        assert_eq!(format("hh h HH A", &midnight), "12 12 00 AM");
        assert_eq!(format("hh h HH A", &noon), "12 12 12 PM");
    }

    #[test]
    fn patterns_match_what_formats_make() {
        for hour in 0..24 {
            let time = at(&format!("2026-05-01T{hour:02}:00:00+00:00[UTC]"));
            for wanted in ["YYYY-MM-DD_HH-mm-ss", "DDMMMYYYY-hha", "dddd D MMMM, [x.y] Z ZZ", "YY.M.D"] {
                let text = format(wanted, &time);
                let pattern = regex::Regex::new(&format!("^{}$", pattern(wanted))).unwrap();
                assert!(pattern.is_match(&text), "{pattern} does not match {text}");
            }
        }
        assert!(!regex::Regex::new(&format!("^{}$", pattern("YYYY-MM-DD"))).unwrap().is_match("err"));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let second = at("2026-05-01T22:01:07+02:00[Europe/Berlin]");
        for wanted in ["YYYY-MM-DD HH:mm:ss Z", "ZZ D. MMMM YYYY, h:m:s a", "dddd MMM DD YY [at] HH:mm:ssZ"] {
            let line = format!("{}: text", format(wanted, &second));
            let read = Reader::of(wanted).unwrap().read(line.as_bytes());
            assert_eq!(read, Some(second.timestamp().as_millisecond()), "{line}");
        }
        let local = second.with_time_zone(jiff::tz::TimeZone::system());
        let pm2s = Reader::of("YYYY-MM-DDTHH:mm:ss").unwrap();
        assert_eq!(
            pm2s.read(format("YYYY-MM-DDTHH:mm:ss", &local).as_bytes()),
            Some(local.timestamp().as_millisecond())
        );
        assert_eq!(pm2s.read(b"no time"), None);
        assert_eq!(pm2s.read(b"2026-13-01T00:00:00"), None);
        assert!(Reader::of("HH:mm:ss").is_none() && Reader::of("YYYY-MM-DD").is_none());
    }

    #[test]
    fn milliseconds_are_known_to_be_shown() {
        assert!(shows_milliseconds("HH:mm:ss.SSS"));
        assert!(!shows_milliseconds("HH:mm:ss [SSS]"));
    }
}
