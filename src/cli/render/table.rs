//! Box tables in PM2's look: columns of fixed width, contents cut with `…`.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::cli::console::Paint;

/// A cell: text and how it is painted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// How.
    pub paint: Option<Paint>,
}

impl Cell {
    /// In a colour.
    pub fn painted(text: impl Into<String>, paint: Paint) -> Cell {
        Cell { text: text.into(), paint: Some(paint) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), paint: None }
    }
}

/// A table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Header of each column; empty for a table without a header line.
    pub headers: Vec<&'static str>,
    /// Width of each column, the blanks beside the text included.
    pub widths: Vec<usize>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without header whose columns are as wide as what is in them.
    pub fn fitting(rows: Vec<Vec<Cell>>) -> Table {
        let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
        let widest = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.width()).max();
        let widths = (0..columns).map(|column| widest(column).unwrap_or_default() + 2).collect();
        Table { headers: Vec::new(), widths, rows }
    }

    /// How many columns of a terminal it needs.
    pub fn width(&self) -> usize {
        self.widths.iter().sum::<usize>() + self.widths.len() + 1
    }

    /// The table as text, ending with a line break.
    pub fn render(&self, colours: bool) -> String {
        let grey = |text: &str| Paint::Grey.on(colours, text);
        let rule = |left: char, middle: &str, right: char| {
            let dashes: Vec<String> = self.widths.iter().map(|width| "─".repeat(*width)).collect();
            grey(&format!("{left}{}{right}", dashes.join(middle))) + "\n"
        };
        let bar = grey("│");
        let line = |cells: &[Cell]| {
            let mut line = bar.clone();
            for (cell, width) in cells.iter().zip(&self.widths) {
                let room = width.saturating_sub(2);
                let text = cut(&cell.text, room);
                let blanks = " ".repeat(room.saturating_sub(text.width()));
                let text = cell.paint.map_or_else(|| text.clone(), |paint| paint.on(colours, &text));
                line.push_str(&format!(" {text}{blanks} {bar}"));
            }
            line + "\n"
        };
        let mut out = rule('┌', "┬", '┐');
        if !self.headers.is_empty() {
            let headers: Vec<Cell> = self.headers.iter().map(|h| Cell::painted(*h, Paint::BoldCyan)).collect();
            out.push_str(&line(&headers));
            if !self.rows.is_empty() {
                out.push_str(&rule('├', "┼", '┤'));
            }
        }
        for row in &self.rows {
            out.push_str(&line(row));
        }
        out + &rule('└', "┴", '┘')
    }
}

/// The text on one line in this many columns, its end replaced by `…` where it is longer. Control characters, which
/// could reprogram a terminal, become blanks.
pub fn cut(text: &str, room: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.width() <= room {
        return text;
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let width = c.width().unwrap_or_default();
        if used + width + 1 > room {
            break;
        }
        used += width;
        out.push(c);
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_to_its_columns() {
        assert_eq!(cut("waiting restart", 9), "waiting …");
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("日本語テキスト", 7), "日本語…");
        assert_eq!(cut("a\x1b[2Jb", 9), "a [2Jb");
    }

    #[test]
    fn colours_do_not_change_the_layout() {
        let table = Table {
            headers: vec!["id", "name"],
            widths: vec![4, 8],
            rows: vec![vec!["0".into(), Cell::painted("api", Paint::Green)]],
        };
        let plain = "┌────┬────────┐\n│ id │ name   │\n├────┼────────┤\n│ 0  │ api    │\n└────┴────────┘\n";
        assert_eq!(table.render(false), plain);
        let coloured =
            regex::Regex::new("\x1b\\[[0-9;]*m").map(|codes| codes.replace_all(&table.render(true), "").into_owned());
        assert_eq!(coloured.as_deref(), Ok(plain));
        assert_eq!(table.width(), 15);
    }
}
