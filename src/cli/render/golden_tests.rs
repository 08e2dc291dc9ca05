//! What people see of a list of processes, compared with files. `UPDATE_GOLDEN=1` writes them anew.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::Value;

use super::describe::describe;
use super::inspect::inspect;
use super::list::{Sort, blocks, table};
use super::row::Row;

/// 30 s after the oldest of the processes was started.
const NOW: u64 = 1_795_225_880_123;

fn processes() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/jlist.json")).unwrap()
}

fn rows() -> Vec<Row> {
    let mut rows = Row::read_all(&processes());
    Sort::default().apply(&mut rows);
    rows
}

#[track_caller]
fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{name} differs; expected:\n{expected}\nactual:\n{actual}");
}

#[test]
fn list_without_a_terminal_is_full() {
    golden("list-full.txt", &table(&rows(), NOW, None, false));
}

#[test]
fn list_narrows_with_the_terminal() {
    assert_eq!(table(&rows(), NOW, Some(170), false), table(&rows(), NOW, None, false));
    golden("list-condensed.txt", &table(&rows(), NOW, Some(100), false));
    golden("list-mini.txt", &table(&rows(), NOW, Some(60), false));
}

#[test]
fn empty_list_is_a_header() {
    golden("list-empty.txt", &table(&[], NOW, None, false));
}

#[test]
fn list_in_blocks() {
    golden("list-blocks.txt", &blocks(&rows(), NOW));
}

#[test]
fn list_in_colour() {
    golden("list-colour.txt", &table(&rows(), NOW, Some(60), true));
}

#[test]
fn list_is_sorted_as_asked() {
    let ids = |sort: &str| {
        let mut rows = rows();
        Sort::read(sort).apply(&mut rows);
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(ids("id"), [0, 1, 2, 3]);
    assert_eq!(ids("id:desc"), [3, 2, 1, 0]);
    assert_eq!(ids("name"), [3, 1, 2, 0]);
    assert_eq!(ids("memory:desc"), [1, 0, 3, 2]);
    assert_eq!(ids("cpu:desc"), [1, 0, 3, 2]);
    assert_eq!(ids("status"), [2, 0, 1, 3]);
    assert_eq!(ids("namespace"), [0, 1, 2, 3]);
}

#[test]
fn the_machine_has_a_line() {
    let metrics = serde_json::json!({"cpu": 3.5, "ram": 41.0, "interface": "eth0", "received": 209_715, "sent": 0,
        "read": 0, "written": 2_621_440});
    assert_eq!(
        super::list::host_line(&metrics),
        "host metrics | cpu: 3.5% | ram usage: 41% | eth0: ⇓ 0.2mb/s ⇑ 0mb/s | disk: ⇓ 0mb/s ⇑ 2.5mb/s"
    );
}

#[test]
fn what_is_amiss_is_said() {
    assert_eq!(super::list::reasons(&rows()), ["api (2): ended 16 times within 15 s; see `pm2 logs 2`"]);
}

#[test]
fn describe_tells_all() {
    let processes = processes();
    let local = |name: &str| (name == "NODE_ENV").then(|| "development".to_owned());
    golden("describe-worker.txt", &describe(&processes[0], NOW, &local, false));
    golden("describe-errored.txt", &describe(&processes[2], NOW, &|_| None, false));
}

#[test]
fn prettylist_is_node_s() {
    golden("prettylist.txt", &inspect(&processes()));
}
