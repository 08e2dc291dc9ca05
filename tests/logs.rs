//! The log path from pipes to files and followers, through its public interface and real pipes.

#![allow(clippy::unwrap_used)]

#[path = "logs/rig.rs"]
mod rig;
#[path = "logs/rights.rs"]
mod rights;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use pm2rs::core::{LogType, ProcessId, Uid, WorkerId};
use pm2rs::logs::{LogEvent, Search, Whose};
use rig::{DEADLINE, OWNER, Pipes, Rig, messages, read, records, until};

#[tokio::test]
async fn bytes_arrive_as_they_are() {
    let rig = Rig::new();
    let spec = rig.spec(|_| ());
    let mut pipes = rig.attach(1, 0, &spec);
    let bytes = b"one\r\ntw\xff\x00o\nno end";
    pipes.out(bytes);
    pipes.err(b"oops\n");
    rig.end(pipes).await;
    assert_eq!(fs::read(rig.path("logs/api-out-0.log")).unwrap(), bytes);
    assert_eq!(read(&rig.path("logs/api-error-0.log")), "oops\n");
    assert_eq!(rig.logs.counters(ProcessId(0)).await.bytes, bytes.len() as u64 + 5);
}

#[tokio::test]
async fn what_has_no_line_end_yet_is_in_the_file_already() {
    let rig = Rig::new();
    let mut pipes = rig.attach(1, 0, &rig.spec(|_| ()));
    pipes.out(b"50%");
    until(&rig.path("logs/api-out-0.log"), |text| text == "50%").await;
    rig.end(pipes).await;
}

#[tokio::test]
async fn a_new_worker_does_not_go_on_with_the_last_ones_line() {
    let rig = Rig::new();
    let spec = rig.spec(|_| ());
    let mut first = rig.attach(1, 0, &spec);
    first.out(b"dying wor");
    rig.end(first).await;
    let mut second = rig.attach(2, 0, &spec);
    second.out(b"hello\n");
    rig.end(second).await;
    assert_eq!(read(&rig.path("logs/api-out-0.log")), "dying wor\nhello\n");
}

#[tokio::test]
async fn prefixes_json_and_the_combined_file() {
    let rig = Rig::new();
    let timed = rig.spec(|spec| {
        spec.log.log_date_format = Some("YYYY".to_owned());
        spec.log.log_file = Some(rig.path("logs/both.log"));
    });
    let mut pipes = rig.attach(1, 0, &timed);
    pipes.out(b"a");
    pipes.out(b"b\nc\n");
    pipes.err(b"d\n");
    rig.end(pipes).await;
    let year = jiff::Zoned::now().year();
    assert_eq!(read(&rig.path("logs/api-out-0.log")), format!("{year}: ab\n{year}: c\n"));
    let mut both: Vec<String> = read(&rig.path("logs/both-0.log")).lines().map(str::to_owned).collect();
    both.sort();
    assert_eq!(both, [format!("{year}: ab"), format!("{year}: c"), format!("{year}: d")]);

    let json = rig.spec(|spec| {
        spec.log.log_type = LogType::Json;
        spec.log.merge_logs = true;
    });
    let mut pipes = rig.attach(2, 1, &json);
    pipes.out(b"x\n");
    rig.end(pipes).await;
    let line: serde_json::Value = serde_json::from_str(&read(&rig.path("logs/api-out.log"))).unwrap();
    let keys: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["message", "timestamp", "type", "process_id", "app_name"]);
    assert_eq!(line["message"], "x\n");
}

#[tokio::test]
async fn a_line_that_nobody_ends_is_shown_all_the_same_and_goes_on() {
    let rig = Rig::new();
    let spec = rig.spec(|spec| {
        spec.log.log_date_format = Some("[at]".to_owned());
        spec.log.log_file = Some(rig.path("logs/both.log"));
    });
    let mut pipes = rig.attach(1, 0, &spec);
    pipes.out(b"are you sure? ");
    for name in ["logs/api-out-0.log", "logs/both-0.log"] {
        until(&rig.path(name), |text| text == "at: are you sure? ").await;
    }
    pipes.out(b"yes\nsure\n");
    rig.end(pipes).await;
    assert_eq!(read(&rig.path("logs/api-out-0.log")), "at: are you sure? yes\nat: sure\n");
    assert_eq!(read(&rig.path("logs/both-0.log")), "at: are you sure? yes\nat: sure\n");
}

#[tokio::test]
async fn the_head_of_a_line_stays_in_the_pipe_for_whoever_reads_on() {
    let (rig, next) = (Rig::new(), Rig::new());
    let spec = rig.spec(|spec| spec.log.log_date_format = Some("[at]".to_owned()));
    let (out_read, mut out) = std::io::pipe().unwrap();
    let (err_read, err) = std::io::pipe().unwrap();
    rig.read(1, 0, &spec, out_read.try_clone().unwrap().into(), err_read.try_clone().unwrap().into());
    let path = rig.path("logs/api-out-0.log");
    out.write_all(b"whole\nha").unwrap();
    until(&path, |text| text == "at: whole\n").await;
    rig.logs.stand_still().await;
    next.read(1, 0, &spec, out_read.into(), err_read.into());
    out.write_all(b"lf\nlast").unwrap();
    until(&path, |text| text.ends_with("lf\n")).await;
    next.end(Pipes { worker: WorkerId(1), out: Some(out), err: Some(err) }).await;
    assert_eq!(read(&path), "at: whole\nat: half\nat: last");
}

#[tokio::test]
async fn merged_lines_of_several_workers_stay_whole() {
    let rig = Rig::new();
    let spec = rig.spec(|spec| spec.log.merge_logs = true);
    let writers: Vec<_> = (0..4u32)
        .map(|n| {
            let mut pipes = rig.attach(n + 1, n, &spec);
            std::thread::spawn(move || {
                for line in 0..2000 {
                    let text = format!("{n} {line} {}\n", "x".repeat(line % 300));
                    let (head, tail) = text.split_at(text.len() / 2);
                    pipes.out(head.as_bytes());
                    pipes.out(tail.as_bytes());
                }
                pipes
            })
        })
        .collect();
    for writer in writers {
        rig.end(writer.join().unwrap()).await;
    }
    let mut next = [0; 4];
    for line in read(&rig.path("logs/api-out.log")).lines() {
        let mut words = line.split(' ');
        let n: usize = words.next().unwrap().parse().unwrap();
        let number: usize = words.next().unwrap().parse().unwrap();
        assert_eq!(number, next[n], "of writer {n}");
        assert_eq!(words.next().unwrap().len(), number % 300);
        next[n] += 1;
    }
    assert_eq!(next, [2000; 4]);
}

#[tokio::test]
async fn rotation_loses_nothing_and_cuts_between_lines() {
    let rig = Rig::new();
    let spec = rig.spec(|spec| {
        spec.log.rotate.max_size = 64 << 10;
        spec.log.rotate.retain = 10_000;
        spec.log.rotate.compress = false;
    });
    let mut pipes = rig.attach(1, 0, &spec);
    let lines = 50_000;
    let pipes = std::thread::spawn(move || {
        for n in 0..lines {
            pipes.out(format!("line number {n:08}\n").as_bytes());
        }
        pipes
    });
    rig.end(pipes.join().unwrap()).await;
    let mut seen = Vec::new();
    let mut files = 0;
    for entry in fs::read_dir(rig.path("logs")).unwrap() {
        let path = entry.unwrap().path();
        let text = read(&path);
        if path.file_name().unwrap().to_str().unwrap().starts_with("api-out") {
            files += 1;
            assert!(text.len() <= 64 << 10, "{}: {}", path.display(), text.len());
            assert!(text.ends_with('\n'));
            seen.extend(text.lines().map(|line| line.strip_prefix("line number ").unwrap().parse::<u32>().unwrap()));
        }
    }
    assert!(files > 15, "{files}");
    seen.sort_unstable();
    assert_eq!(seen, (0..lines).collect::<Vec<u32>>());
}

#[tokio::test]
async fn followers_get_the_last_lines_and_then_the_next() {
    let rig = Rig::new();
    let spec = rig.spec(|_| ());
    let mut pipes = rig.attach(1, 0, &spec);
    pipes.out(b"1\n2\n3\n");
    until(&rig.path("logs/api-out-0.log"), |text| text == "1\n2\n3\n").await;
    let last = rig.logs.search(Uid(0), Whose::Processes(vec![ProcessId(0)]), Search::last(2)).await.unwrap();
    assert_eq!(messages(last, 9), ["2", "3"]);
    assert_eq!(rig.logs.tail(ProcessId(0), false, 2).await, ["2", "3"]);

    let following = rig.logs.follow(Uid(0), Whose::Processes(vec![ProcessId(0)]), 1, true, false).await.unwrap();
    pipes.err(b"not wanted\n");
    pipes.out(b"4\n5");
    pipes.out(b"\n");
    // A process that joins the app is followed as well.
    let mut joining = rig.attach(2, 1, &spec);
    let seen = tokio::task::spawn_blocking(move || {
        let mut records = records(following);
        let mut first: Vec<_> = records.by_ref().take(4).collect();
        assert_eq!(first.remove(1)["live"], true, "between what was and what comes");
        (first, records)
    });
    let (first, mut rest) = seen.await.unwrap();
    let texts: Vec<&str> = first.iter().map(|record| record["message"].as_str().unwrap()).collect();
    assert_eq!(texts, ["3", "4", "5"]);
    assert_eq!((first[0]["timestamp"].as_i64(), first[1]["type"].as_str()), (Some(0), Some("out")));
    assert!(first[1]["timestamp"].as_i64().unwrap() > 1_700_000_000_000);
    joining.out(b"joined\n");
    let joined = tokio::task::spawn_blocking(move || rest.next().unwrap()).await.unwrap();
    assert_eq!((joined["message"].as_str(), joined["process_id"].as_u64()), (Some("joined"), Some(1)));
    rig.end(pipes).await;
    rig.end(joining).await;
    assert_eq!(read(&rig.path("logs/api-out-0.log")), "1\n2\n3\n4\n5\n");
}

#[tokio::test]
async fn a_follower_that_does_not_read_slows_nobody() {
    let rig = Rig::new();
    let mut pipes = rig.attach(1, 0, &rig.spec(|spec| spec.log.rotate.enabled = false));
    let slow = rig.logs.follow(Uid(0), Whose::All(None), 0, true, true).await.unwrap();
    let line = [b"x".repeat(99), b"\n".to_vec()].concat();
    let pipes = std::thread::spawn(move || {
        for _ in 0..50_000 {
            pipes.out(&line);
        }
        pipes
    });
    rig.end(pipes.join().unwrap()).await;
    assert_eq!(fs::metadata(rig.path("logs/api-out-0.log")).unwrap().len(), 5_000_000);
    let told = tokio::task::spawn_blocking(move || {
        let mut seen = 0;
        for record in records(slow) {
            match record.get("missed").and_then(serde_json::Value::as_u64) {
                Some(missed) => return (seen, missed),
                None => seen += 1,
            }
        }
        (seen, 0)
    });
    let (seen, missed) = told.await.unwrap();
    assert!(missed > 0);
    assert_eq!(seen + missed, 50_000);
}

#[tokio::test]
async fn a_file_that_was_removed_or_renamed_is_made_anew() {
    let rig = Rig::new();
    let mut pipes = rig.attach(1, 0, &rig.spec(|_| ()));
    let path = rig.path("logs/api-out-0.log");
    pipes.out(b"before\n");
    until(&path, |text| text == "before\n").await;
    fs::rename(&path, rig.path("moved")).unwrap();
    rig.logs.reopen(Some(Uid(OWNER.0 + 1))).await;
    assert!(!path.exists(), "who does not own it has it opened");
    rig.logs.reopen(Some(OWNER)).await;
    pipes.out(b"after\n");
    until(&path, |text| text == "after\n").await;
    assert_eq!(read(&rig.path("moved")), "before\n");
    rig.logs.flush(vec![ProcessId(0)]).await;
    pipes.out(b"fresh\n");
    until(&path, |text| text == "fresh\n").await;
    rig.end(pipes).await;
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_pipe_does_not_hold_up_the_end() {
    let rig = Rig::new();
    let mut pipes = rig.attach(1, 0, &rig.spec(|_| ()));
    pipes.out(b"last words\n");
    let kept = pipes.out.as_ref().unwrap().try_clone().unwrap();
    rig.end(pipes).await;
    assert_eq!(read(&rig.path("logs/api-out-0.log")), "last words\n");
    let refused = (&kept).write(b"x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_costs_counted_lines_only() {
    let mut rig = Rig::new();
    let blocker = rig.path("logs");
    fs::write(&blocker, "a file where the folder should be").unwrap();
    let mut pipes = rig.attach(1, 0, &rig.spec(|spec| spec.log.error_file = None));
    let line = [b"x".repeat(99), b"\n".to_vec()].concat();
    for _ in 0..20_000 {
        pipes.out(&line);
    }
    let LogEvent::Dropped { process, reason, .. } = rig.event().await else { panic!("expected a loss") };
    assert_eq!(process, ProcessId(0));
    assert!(reason.starts_with("cannot open `"), "{reason}");
    let counters = rig.logs.counters(ProcessId(0)).await;
    assert!(counters.last_error.unwrap().contains("api-out-0.log"));
    fs::remove_file(&blocker).unwrap();
    let path = rig.path("logs/api-out-0.log");
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !path.exists() {
        assert!(tokio::time::Instant::now() < deadline);
        pipes.out(b"knock\n");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pipes.out(b"again\n");
    let text = until(&path, |text| text.ends_with("again\n")).await;
    let kept = text.lines().filter(|line| line.len() == 99).count() as u64;
    assert!(text.lines().all(|line| line.len() == 99 || line == "knock" || line == "again"), "a torn line");
    let mut lost = 0;
    loop {
        match rig.event().await {
            LogEvent::Dropped { .. } | LogEvent::Suppressed { .. } | LogEvent::Waiting { .. } => {}
            LogEvent::Recovered { lines, .. } => {
                lost += lines;
                break;
            }
        }
    }
    rig.end(pipes).await;
    let dropped = rig.logs.counters(ProcessId(0)).await;
    assert_eq!((dropped.dropped, dropped.last_error), (lost, None));
    assert!(kept > 0 && kept + lost >= 20_000, "{kept} kept, {lost} lost");
}

#[tokio::test]
async fn a_line_that_waits_for_its_file_is_told_of_before_any_is_lost() {
    let mut rig = Rig::new();
    let blocker = rig.path("logs");
    fs::write(&blocker, "a file where the folder should be").unwrap();
    let mut pipes = rig.attach(1, 0, &rig.spec(|_| ()));
    pipes.out(b"the only one\n");
    let LogEvent::Waiting { process, reason } = rig.any_event().await else { panic!("expected a line that waits") };
    assert_eq!(process, ProcessId(0));
    assert!(reason.starts_with("cannot open `") && reason.contains("api-out-0.log"), "{reason}");
    fs::remove_file(&blocker).unwrap();
    until(&rig.path("logs/api-out-0.log"), |text| text == "the only one\n").await;
    assert_eq!(rig.any_event().await, LogEvent::Recovered { process, lines: 0 });
    rig.end(pipes).await;
}

#[tokio::test]
async fn a_folder_that_was_removed_comes_back_by_itself() {
    let rig = Rig::new();
    let mut pipes = rig.attach(1, 0, &rig.spec(|_| ()));
    let path = rig.path("logs/api-out-0.log");
    pipes.out(b"before\n");
    until(&path, |text| text == "before\n").await;
    fs::remove_dir_all(rig.path("logs")).unwrap();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !path.exists() {
        assert!(tokio::time::Instant::now() < deadline);
        pipes.out(b"knock\n");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pipes.out(b"after\n");
    let text = until(&path, |text| text.ends_with("after\n")).await;
    assert!(text.lines().all(|line| line == "knock" || line == "after"), "{text}");
    rig.end(pipes).await;
    let counters = rig.logs.counters(ProcessId(0)).await;
    assert_eq!((counters.dropped, counters.last_error), (0, None));
}

#[tokio::test]
async fn the_journal_gets_each_line_once_and_sets_the_pace() {
    let rig = Rig::with(|config| config.journal = true);
    let journal = std::os::unix::net::UnixDatagram::bind(rig.path("journal")).unwrap();
    journal.set_read_timeout(Some(DEADLINE)).unwrap();
    let spec = rig.spec(|spec| spec.log.files = Some(false));
    let mut pipes = rig.attach(1, 0, &spec);
    let lines = 20_000;
    let writer = std::thread::spawn(move || {
        for n in 0..lines {
            pipes.out(format!("line {n}\n").as_bytes());
        }
        pipes.out(&[b'x'; 300_000]);
        pipes
    });
    let reader = tokio::task::spawn_blocking(move || {
        let mut datagram = vec![0; 1 << 20];
        for n in 0..lines {
            let length = journal.recv(&mut datagram).unwrap();
            let text = String::from_utf8_lossy(&datagram[..length]);
            assert!(text.ends_with(&format!("PRIORITY=6\nMESSAGE=line {n}\n")), "{n}: {text}");
            assert!(text.contains("\nPM2RS_PROCESS=0\n") && text.contains("\nOBJECT_PID=1001\n"), "{text}");
        }
        let length = journal.recv(&mut datagram).unwrap();
        assert!(datagram[..length].ends_with(b"xx\nPM2RS_LINE_BREAK=line-max\n"));
        let length = journal.recv(&mut datagram).unwrap();
        assert!(datagram[..length].ends_with(b"xx\n"));
    });
    let pipes = tokio::task::spawn_blocking(move || writer.join().unwrap()).await.unwrap();
    rig.end(pipes).await;
    reader.await.unwrap();
    // There is no file to read them from, so they are remembered.
    let last = rig.logs.tail(ProcessId(0), false, 2).await;
    assert_eq!(last.len(), 2);
    assert_eq!(rig.logs.counters(ProcessId(0)).await.dropped, 0);
    // They are not its successor's last words.
    let _pipes = rig.attach(2, 0, &spec);
    assert!(rig.logs.tail(ProcessId(0), false, 2).await.is_empty());
}

#[tokio::test]
async fn syslog_gets_each_line_besides_the_file() {
    let rig = Rig::new();
    let server = std::os::unix::net::UnixDatagram::bind(rig.path("syslog")).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let spec = rig.spec(|spec| {
        spec.log.syslog = Some(format!("unix:{}", rig.path("syslog").display()).parse().unwrap());
    });
    let mut pipes = rig.attach(1, 0, &spec);
    pipes.out(b"one\ntw");
    pipes.out(b"o\n");
    pipes.err(b"<2>three\n");
    let mut datagram = [0; 512];
    let mut seen: Vec<String> = (0..3)
        .map(|_| {
            let length = server.recv(&mut datagram).unwrap();
            String::from_utf8_lossy(&datagram[..length]).into_owned()
        })
        .map(|text| format!("{} {}", &text[..text.find('>').unwrap() + 1], text.split_once("api[").unwrap().1))
        .collect();
    rig.end(pipes).await;
    seen.sort();
    assert_eq!(seen, ["<10> 1001]: three", "<14> 1001]: one", "<14> 1001]: two"]);
    assert_eq!(read(&rig.path("logs/api-out-0.log")), "one\ntwo\n");
}

#[tokio::test]
async fn a_syslog_daemon_for_all_apps_gets_lines_of_those_that_name_none() {
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let address = format!("udp:{}", server.local_addr().unwrap());
    let rig = Rig::with(|config| {
        *config = config.clone().with_environment(|name| (name == "PM2RS_LOG_SYSLOG").then(|| address.clone()));
    });
    let own = std::os::unix::net::UnixDatagram::bind(rig.path("syslog")).unwrap();
    own.set_read_timeout(Some(DEADLINE)).unwrap();
    let named = rig.spec(|spec| {
        spec.log.syslog = Some(format!("unix:{}", rig.path("syslog").display()).parse().unwrap());
    });
    let mut first = rig.attach(1, 0, &rig.spec(|_| ()));
    let mut second = rig.attach(2, 1, &named);
    first.err(b"to all\n");
    second.out(b"to its own\n");
    let mut datagram = [0; 512];
    let length = server.recv(&mut datagram).unwrap();
    let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
    assert!(text.starts_with("<11>1 ") && text.ends_with(" api 1001 err - to all"), "{text}");
    let length = own.recv(&mut datagram).unwrap();
    assert!(datagram[..length].ends_with(b" api[1002]: to its own"));
    rig.end(first).await;
    rig.end(second).await;
    server.set_nonblocking(true).unwrap();
    assert!(server.recv(&mut datagram).is_err(), "what an app sends to its own receiver goes nowhere else");
}

/// Not a test: what the next one runs with a disk of its own that is about to be full.
#[tokio::test]
#[ignore = "started by another test, in its own mount namespace"]
async fn on_a_full_disk() {
    let Some(disk) = std::env::var_os("PM2RS_TEST_DISK") else { return };
    let mut rig = Rig::new();
    let spec = |name: &str| rig.spec(|spec| spec.log.out_file = Some(Path::new(&disk).join(name)));
    let specs = [spec("a.log"), spec("b.log")];
    let line = [b"x".repeat(99), b"\n".to_vec()].concat();
    let count = 100_000u64;
    let writers: Vec<_> = (0..2u32)
        .map(|n| {
            let mut pipes = rig.attach(n + 1, n, &specs[n as usize]);
            let line = line.clone();
            // Ends only when nobody lets it wait.
            std::thread::spawn(move || {
                (0..count).for_each(|_| pipes.out(&line));
                pipes
            })
        })
        .collect();
    let mut pipes: Vec<Pipes> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    assert!(matches!(rig.event().await, LogEvent::Dropped { reason, .. } if reason.contains("No space left")));
    let last_error = rig.logs.counters(ProcessId(0)).await.last_error.unwrap();
    assert!(last_error.starts_with("cannot write to `"), "{last_error}");

    // Once there is room again, lines are kept again.
    rig.logs.flush(vec![ProcessId(0), ProcessId(1)]).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut recovered = 0;
    while recovered < 2 {
        assert!(tokio::time::Instant::now() < deadline);
        pipes.iter_mut().for_each(|pipes| pipes.out(b"after\n"));
        while let Ok(event) = rig.events.try_recv() {
            recovered += u64::from(matches!(event, LogEvent::Recovered { .. }));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for pipes in pipes {
        rig.end(pipes).await;
    }
    for (n, name) in [(0, "a-0.log"), (1, "b-1.log")] {
        let text = read(&Path::new(&disk).join(name));
        assert!(text.ends_with("after\n"));
        assert!(text.lines().all(|line| line.len() == 99 || line == "after"), "a torn line");
        let dropped = rig.logs.counters(ProcessId(n)).await.dropped;
        assert!(dropped > count / 2 && dropped < count, "{dropped} of {count}");
    }
}

#[test]
fn apps_go_on_while_the_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m tmpfs \"$PM2RS_TEST_DISK\" || exit 42; exec \"$0\" \"$@\"";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "on_a_full_disk", "--ignored"])
        .env("PM2RS_TEST_DISK", dir.path())
        .output()
        .unwrap();
    if !output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("running") {
        println!("apps_go_on_while_the_disk_is_full: skipped, may not mount a disk");
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
