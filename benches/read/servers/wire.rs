//! A relay in a process of its own, so that its processor time is nobody else's: this bench, run anew.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddrV4;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::relay::{self, Counters, Link, Pace};
use crate::origin::Counts;
use crate::process;

/// The word that makes this bench a relay.
const WORD: &str = "--relay";

#[derive(Serialize, Deserialize)]
struct Asked {
    links: Vec<Link>,
    pace: Pace,
}

/// Relays as the first line of the standard input says, and answers each other one with what was counted, until it ends.
pub(crate) fn serve() -> Result<()> {
    let mut lines = io::stdin().lines();
    let asked: Asked = serde_json::from_str(&lines.next().context("nothing to relay")??)?;
    let counters = Arc::new(Counters::default());
    let at = relay::listen(&asked.links, asked.pace, &counters)?;
    let mut out = io::stdout();
    writeln!(out, "{}", serde_json::to_string(&at)?)?;
    for line in lines {
        line?;
        writeln!(out, "{}", serde_json::to_string(&*counters)?)?;
    }
    Ok(())
}

pub(crate) struct Relay {
    child: Child,
    talk: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    /// Where it listens, in the order of the links.
    pub(crate) at: Vec<SocketAddrV4>,
}

impl Relay {
    pub(crate) fn start(links: Vec<Link>, pace: Pace) -> Result<Relay> {
        let mut child =
            Command::new(std::env::current_exe()?).arg(WORD).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().context("no input of the relay")?;
        let stdout = BufReader::new(child.stdout.take().context("no output of the relay")?);
        let mut relay = Relay { child, talk: Mutex::new((stdin, stdout)), at: Vec::new() };
        let at = relay.ask(&serde_json::to_string(&Asked { links, pace })?)?;
        relay.at = serde_json::from_str(&at).context("the relay did not start")?;
        Ok(relay)
    }

    pub(crate) fn counts(&self) -> Result<Counts> {
        let counters: Counters = serde_json::from_str(&self.ask("")?)?;
        let (requests, bytes) = (counters.requests.into_inner(), counters.bytes.into_inner());
        Ok(Counts { gets: requests, bytes, relay_cpu: self.cpu(), ..Counts::default() })
    }

    fn cpu(&self) -> f64 {
        process::used(i32::try_from(self.child.id()).unwrap_or_default()).cpu
    }

    fn ask(&self, line: &str) -> Result<String> {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(talk.0, "{line}")?;
        let mut answer = String::new();
        talk.1.read_line(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
