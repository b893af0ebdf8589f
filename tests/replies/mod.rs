//! Replies that the kernel refused: bytes of the wrong length above all, which it may also believe. fuser logs them, so
//! what this process and its workers write to stderr is looked through on its way there.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, Once, PoisonError};

const REFUSED: &str = "Failed to send FUSE reply";
/// Nobody waits for the reply any more: the connection was aborted, or the mount is gone.
const NOBODY_WAITS: [&str; 2] = ["os error 2)", "os error 19)"];
/// Lines that are kept.
const KEPT: usize = 1000;
const MARK: &str = "all of stderr until here was looked through, ";

struct Seen {
    refused: Vec<String>,
    lines: VecDeque<String>,
    marks: u64,
}

static SEEN: Mutex<Seen> = Mutex::new(Seen { refused: Vec::new(), lines: VecDeque::new(), marks: 0 });
static LOOKED: Condvar = Condvar::new();

/// Looks through stderr from now on: of this process, and of those it starts from now on.
pub(crate) fn watch() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let stderr: File = std::io::stderr().as_fd().try_clone_to_owned().unwrap().into();
        let (reader, writer) = std::io::pipe().unwrap();
        nix::unistd::dup2_stderr(writer).unwrap();
        std::thread::spawn(move || look(reader, stderr));
        // For mounts that this process itself serves.
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false);
        let _ = log.with_writer(std::io::stderr).try_init();
    });
}

fn look(reader: PipeReader, mut stderr: File) {
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&line);
        let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if text.starts_with(MARK) {
            seen.marks += 1;
            LOOKED.notify_all();
            continue;
        }
        if text.contains(REFUSED) && !NOBODY_WAITS.iter().any(|end| text.contains(end)) {
            seen.refused.push(text.to_string());
        }
        if seen.lines.len() == KEPT {
            seen.lines.pop_front();
        }
        seen.lines.push_back(text.into_owned());
        drop(seen);
        let _ = stderr.write_all(&line).and_then(|()| stderr.write_all(b"\n"));
    }
}

/// Whether one of the last lines holds `text`.
#[allow(dead_code, reason = "not every test looks for a line")]
pub(crate) fn said(text: &str) -> bool {
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.lines.iter().any(|line| line.contains(text))
}

/// Fails where the kernel refused a reply so far.
pub(crate) fn assert_none_refused() {
    let before = SEEN.lock().unwrap_or_else(PoisonError::into_inner).marks;
    // Straight to the descriptor: what a test prints is captured.
    let mut stderr: File = std::io::stderr().as_fd().try_clone_to_owned().unwrap().into();
    stderr.write_all(format!("{MARK}{before}\n").as_bytes()).unwrap();
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = LOOKED.wait_while(seen, |seen| seen.marks <= before).unwrap_or_else(PoisonError::into_inner);
    let refused = seen.refused.clone();
    drop(seen);
    assert!(refused.is_empty() || std::thread::panicking(), "the kernel refused replies: {refused:#?}");
}
