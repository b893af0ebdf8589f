//! The audit trail: one line of JSON for each thing that was done to a volume, and for each refusal.
//!
//! A line tells who, which volume, as which identity and with what result, never a value out of a secret. Its fields
//! are always the same; what is not known is `null`. Without a file of its own a line goes to the process's log under
//! the target [`TARGET`], whatever the log's level.

mod file;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use file::File;

/// The tracing target of audit lines.
pub const TARGET: &str = "audit";

/// The version of a line's fields, in its field `audit`.
const FORMAT: u32 = 1;

/// The longest text of one field in bytes: what callers made up may be longer.
const LONGEST: usize = 1024;

/// What happened, or was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A volume was mounted for a pod.
    Publish,
    /// It was taken away from a pod.
    Unpublish,
    /// A mounted volume got another credential.
    CredentialChange,
    /// A volume was made.
    Create,
    /// A volume was deleted.
    Delete,
    /// A volume's parameters were changed.
    Modify,
    /// A volume's size was changed.
    Expand,
    /// A snapshot of a volume was taken.
    Snapshot,
    /// A snapshot was deleted.
    DeleteSnapshot,
}

impl Event {
    /// What a call of this CSI method is; `None` for those that change nothing.
    pub fn of(method: &str) -> Option<Event> {
        Some(match method {
            "NodePublishVolume" => Event::Publish,
            "NodeUnpublishVolume" => Event::Unpublish,
            "CreateVolume" => Event::Create,
            "DeleteVolume" => Event::Delete,
            "ControllerModifyVolume" => Event::Modify,
            "CreateSnapshot" => Event::Snapshot,
            "DeleteSnapshot" => Event::DeleteSnapshot,
            "ControllerExpandVolume" | "NodeExpandVolume" => Event::Expand,
            _ => return None,
        })
    }
}

/// What is known of one call. No field may be filled from a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Where it is another than the method says: a publish that changes a live mount's credential.
    #[serde(skip)]
    pub event: Option<Event>,
    /// The call changed nothing, as a publish that comes again every minute: where it succeeds, no line is written.
    #[serde(skip)]
    pub unchanged: bool,
    /// The volume's id; its name where it has no id.
    pub volume: Option<String>,
    /// The target path on the node.
    pub target: Option<String>,
    /// The pod's namespace, or the claim's. The kubelet's word, and only where it can be no one else's.
    pub namespace: Option<String>,
    /// The pod's name.
    pub pod: Option<String>,
    /// The pod's uid.
    pub pod_uid: Option<String>,
    /// The pod's service account.
    pub service_account: Option<String>,
    /// The PersistentVolumeClaim's name.
    pub claim: Option<String>,
    /// The store's name.
    pub store: Option<String>,
    /// The volume's directory below the store's root.
    pub path: Option<String>,
    /// The keyed hash of the principal; see `auth::identity`.
    pub identity: Option<String>,
    /// Whether the mount refuses changes.
    pub read_only: Option<bool>,
    /// The size in bytes that the volume has or was to get.
    pub size: Option<u64>,
    /// How many objects a deletion removed, versions and markers among them where they were to go.
    pub removed: Option<u64>,
    /// The parameters that were changed.
    pub changed: BTreeMap<String, String>,
}

/// A whole line.
#[derive(Serialize)]
struct Line<'a> {
    audit: u32,
    time: String,
    plugin: &'static str,
    instance: &'a str,
    event: Event,
    code: &'a str,
    reason: Option<&'a str>,
    #[serde(flatten)]
    entry: &'a Entry,
}

/// Where one plugin's lines go. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Audit {
    plugin: &'static str,
    instance: String,
    file: Option<File>,
}

impl Audit {
    /// Lines of the plugin `plugin` (`node`, `controller`), of the node or cluster called `instance`, into the log.
    pub fn to_log(plugin: &'static str, instance: &str) -> Audit {
        Audit { plugin, instance: instance.to_owned(), file: None }
    }

    /// The same lines at the end of the file at `path`. It is opened anew where it was moved away.
    ///
    /// # Errors
    /// Where it cannot be opened, or is no regular file.
    pub fn to_file(self, path: &Path) -> io::Result<Audit> {
        Ok(Audit { file: Some(File::open(path)?), ..self })
    }

    /// Opens the file anew: for whoever rotates it.
    pub fn reopen(&self) {
        if let Some(file) = &self.file {
            file.reopen();
        }
    }

    /// Writes the line of a call that ended with `code`, and with `reason` where that is no success. A line that the
    /// file does not take within a second goes to the log: an audit that fails is told there and in a metric, and fails
    /// no call.
    pub async fn write(&self, event: Event, entry: &Entry, code: &str, reason: Option<&str>) {
        if entry.unchanged && reason.is_none() {
            return;
        }
        let line = self.line(entry.event.unwrap_or(event), entry, code, reason);
        let refused = match &self.file {
            Some(file) => file.append(line).await.err(),
            None => Some(line),
        };
        if let Some(line) = refused {
            tracing::info!(target: TARGET, "{line}");
        }
    }

    fn line(&self, event: Event, entry: &Entry, code: &str, reason: Option<&str>) -> String {
        let line = Line {
            audit: FORMAT,
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            plugin: self.plugin,
            instance: &self.instance,
            event,
            code,
            reason,
            entry,
        };
        // A struct of texts and numbers has a JSON form.
        let mut form = serde_json::to_value(&line).unwrap_or_default();
        form.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()).for_each(shorten);
        let mut text = String::new();
        for c in form.to_string().chars() {
            // JSON allows the controls from U+007F on in its texts; a terminal may obey them.
            if c.is_control() { text += &format!("\\u{:04x}", u32::from(c)) } else { text.push(c) }
        }
        text
    }
}

fn shorten(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if text.len() > LONGEST => {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push('…');
        }
        serde_json::Value::Object(fields) => fields.values_mut().for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
