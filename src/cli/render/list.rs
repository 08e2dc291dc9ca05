//! The list of processes: PM2's table in three widths, and its plain blocks.

use std::cmp::Ordering;

use serde_json::Value;

use super::row::{Row, bytes};
use super::table::{Cell, Table};
use crate::cli::console::Paint;

/// By what the list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    field: Field,
    descending: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    Pid,
    Id,
    Cpu,
    Memory,
    Uptime,
    Status,
}

impl Default for Sort {
    fn default() -> Self {
        Sort { field: Field::Name, descending: false }
    }
}

impl Sort {
    /// `FIELD` or `FIELD:asc` or `FIELD:desc`; as in PM2, a field that is unknown leaves the usual order.
    pub fn read(text: &str) -> Sort {
        let (field, order) = text.split_once(':').unwrap_or((text, "asc"));
        let field = match field.trim() {
            "namespace" => Field::Namespace,
            "pid" => Field::Pid,
            "id" | "pm_id" => Field::Id,
            "cpu" => Field::Cpu,
            "memory" => Field::Memory,
            "uptime" => Field::Uptime,
            "status" => Field::Status,
            _ => Field::Name,
        };
        Sort { field, descending: order.trim() == "desc" }
    }

    /// Puts rows in order; equal ones by id.
    pub fn apply(self, rows: &mut [Row]) {
        rows.sort_by(|a, b| {
            let order = match self.field {
                Field::Name => a.name.cmp(&b.name),
                Field::Namespace => a.namespace.cmp(&b.namespace),
                Field::Pid => a.pid.cmp(&b.pid),
                Field::Id => Ordering::Equal,
                Field::Cpu => a.cpu.total_cmp(&b.cpu),
                Field::Memory => a.memory.cmp(&b.memory),
                // The longer it runs, the earlier it was started.
                Field::Uptime => b.started_at.cmp(&a.started_at),
                Field::Status => a.status.cmp(&b.status),
            };
            let order = order.then(a.id.cmp(&b.id));
            if self.descending { order.reverse() } else { order }
        });
    }
}

/// The table, in the widest form that the terminal has room for; `None` for no terminal.
pub fn table(rows: &[Row], now: u64, width: Option<usize>, colours: bool) -> String {
    let forms = [full(rows, now), condensed(rows), mini(rows)];
    let fits = |table: &&Table| width.is_none_or(|width| table.width() <= width);
    forms.iter().find(fits).unwrap_or(&forms[2]).render(colours)
}

/// Width of the column of names: PM2 adds 5 to the longest, and has 11 where there is none.
fn name_width(rows: &[Row], most: usize) -> usize {
    use unicode_width::UnicodeWidthStr;
    rows.iter().map(|row| row.name.width() + 5).max().unwrap_or(11).min(most)
}

fn id_width(rows: &[Row]) -> usize {
    rows.iter().map(|row| row.id.to_string().len() + 2).max().unwrap_or_default().max(4)
}

fn full(rows: &[Row], now: u64) -> Table {
    let name = name_width(rows, 40);
    let cells = |row: &Row| -> Vec<Cell> {
        vec![
            Cell::painted(row.id.to_string(), Paint::BoldCyan),
            row.name.as_str().into(),
            row.namespace.as_str().into(),
            row.version.as_str().into(),
            mode(row),
            row.pid.to_string().into(),
            row.uptime(now).into(),
            row.restarts.to_string().into(),
            status(row),
            row.cpu_text().into(),
            bytes(row.memory).into(),
            Cell::painted(row.user.as_str(), Paint::Bold),
            if row.watching { Cell::painted("enabled", Paint::Green) } else { Cell::painted("disabled", Paint::Grey) },
        ]
    };
    Table {
        headers: vec![
            "id",
            "name",
            "namespace",
            "version",
            "mode",
            "pid",
            "uptime",
            "↺",
            "status",
            "cpu",
            "mem",
            "user",
            "watching",
        ],
        widths: vec![id_width(rows), name, 13, 9, 9, 10, 8, 6, 11, 10, 10, 10, 10],
        rows: rows.iter().map(cells).collect(),
    }
}

fn condensed(rows: &[Row]) -> Table {
    let cells = |row: &Row| -> Vec<Cell> {
        vec![
            Cell::painted(row.id.to_string(), Paint::BoldCyan),
            row.name.as_str().into(),
            mode(row),
            row.restarts.to_string().into(),
            status(row),
            row.cpu_text().into(),
            bytes(row.memory).into(),
        ]
    };
    Table {
        headers: vec!["id", "name", "mode", "↺", "status", "cpu", "memory"],
        widths: vec![id_width(rows), 20, 10, 6, 11, 10, 10],
        rows: rows.iter().map(cells).collect(),
    }
}

fn mini(rows: &[Row]) -> Table {
    let cells = |row: &Row| -> Vec<Cell> {
        vec![
            Cell::painted(row.id.to_string(), Paint::BoldCyan),
            row.name.as_str().into(),
            status(row),
            row.cpu_text().into(),
            bytes(row.memory).into(),
        ]
    };
    Table {
        headers: vec!["id", "name", "status", "cpu", "mem"],
        widths: vec![id_width(rows), 16, 11, 8, 10],
        rows: rows.iter().map(cells).collect(),
    }
}

fn mode(row: &Row) -> Cell {
    Cell::painted(row.mode(), if row.cluster { Paint::Blue } else { Paint::Bold })
}

fn status(row: &Row) -> Cell {
    let paint = match row.status.as_str() {
        "online" => Paint::Green,
        "launching" => Paint::Blue,
        _ => Paint::Red,
    };
    Cell::painted(row.status.as_str(), paint)
}

/// PM2's line below the table, from the daemon's metrics of the machine.
pub fn host_line(metrics: &Value) -> String {
    let percent = |key: &str| metrics[key].as_f64().unwrap_or_default();
    let megabytes = |key: &str| {
        let tenths = (metrics[key].as_f64().unwrap_or_default() / f64::from(1 << 20) * 10.0).round();
        format!("{}mb/s", tenths / 10.0)
    };
    let mut line = format!("host metrics | cpu: {}% | ram usage: {}%", percent("cpu"), percent("ram"));
    if let Some(interface) = metrics["interface"].as_str().filter(|name| !name.is_empty()) {
        line.push_str(&format!(" | {interface}: ⇓ {} ⇑ {}", megabytes("received"), megabytes("sent")));
    }
    line + &format!(" | disk: ⇓ {} ⇑ {}", megabytes("read"), megabytes("written"))
}

/// A line for each process that something is amiss with: what, and where to look.
pub fn reasons(rows: &[Row]) -> Vec<String> {
    let amiss = rows.iter().filter(|row| !row.reason.is_empty() && row.status != "stopped");
    amiss.map(|row| format!("{} ({}): {}; see `pm2 logs {}`", row.name, row.id, row.reason, row.id)).collect()
}

/// PM2's plain blocks (`-m`).
pub fn blocks(rows: &[Row], now: u64) -> String {
    let mut out = String::new();
    for row in rows {
        let watching = if row.watching { "yes" } else { "no" };
        let fields = [
            ("namespace", row.namespace.clone()),
            ("version", row.version.clone()),
            ("pid", row.pid.to_string()),
            ("pm2 id", row.id.to_string()),
            ("status", row.status.clone()),
            ("mode", row.mode().to_owned()),
            ("restarted", row.restarts.to_string()),
            ("uptime", row.uptime(now)),
            // PM2's space at the end.
            ("memory usage", bytes(row.memory) + " "),
            ("error log", row.error_path.clone()),
            ("watching", watching.to_owned()),
            ("PID file", row.pid_path.clone()),
        ];
        out.push_str(&format!("+--- {}\n", row.name));
        for (name, value) in fields {
            out.push_str(&format!("{name} : {value}\n"));
        }
        out.push('\n');
    }
    out
}
