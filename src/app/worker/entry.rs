//! Getting into a volume: a client whose credential the store has accepted, by one cheap request.

use std::sync::Arc;

use crate::auth;
use crate::backend::records;
use crate::backend::{self, Backend, ErrorKind, Fetched, Limits, Path, Version};
use crate::config::{SnapshotSpec, VolumeSpec};
use crate::csi::volumes::VolumeFile;
use crate::csi::volumes::record::{FORMAT, volume_file_at};
use crate::mount::handover::Refusal;

/// The longest `volume.json` that is read.
const LONGEST_FILE: u64 = 64 << 10;

/// A volume's own file, as it lay there.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) version: Version,
    pub(super) file: VolumeFile,
}

/// What a look at a volume's own file found.
#[derive(Debug)]
pub(super) enum Look {
    /// What was known.
    Same,
    /// Another state of it.
    New(Known),
    /// None, or no small file, or one that cannot be understood: why.
    None(String),
}

/// Clients of a volume.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    /// Of what is shown.
    pub(super) shown: Arc<dyn Backend>,
    /// Of the volume's own directory, where that is another.
    pub(super) own: Option<Arc<dyn Backend>>,
}

impl Clients {
    /// Of the volume as whoever `credential` is. Asks nothing of the store.
    pub(super) fn new(spec: &VolumeSpec, credential: &auth::Current, limits: Limits) -> Result<Clients, Refusal> {
        let parsed = |path: &str| Path::parse(path).map_err(|why| Refusal::Worker(format!("path {path:?}: {why}")));
        let root = parsed(&spec.path)?;
        let Some(SnapshotSpec { path, name, .. }) = &spec.snapshot else {
            return Ok(Clients { shown: backend::connect(&spec.backend, credential, &root, limits)?, own: None });
        };
        let source = backend::snapshot_of(&spec.backend, &parsed(path)?, name)?;
        Ok(Clients {
            shown: backend::connect(&spec.backend, credential, &source, limits.clone())?,
            own: Some(backend::connect(&spec.backend, credential, &root, limits)?),
        })
    }

    /// Of the directory with the volume's own file.
    fn own(&self) -> &dyn Backend {
        &**self.own.as_ref().unwrap_or(&self.shown)
    }
}

/// Proves that the store accepts the client's credential, and that it shows the very directory that is meant. A volume
/// that CreateVolume made has its own file, of the generation in its id, and so has the source of a snapshot that it shows;
/// of another the root is looked at.
pub(super) async fn enter(clients: &Clients, spec: &VolumeSpec) -> Result<Option<Known>, Refusal> {
    let Some(generation) = &spec.generation else {
        clients.shown.stat(&Path::root()).await?;
        return Ok(None);
    };
    let gone = |why: &str| {
        let id = &spec.volume_id;
        Refusal::NoSuchVolume(format!("there is no volume {id:?} in store {:?}: {why}", spec.store))
    };
    let known = match look(clients.own(), None).await? {
        Look::New(known) => known,
        Look::None(why) => return Err(gone(&why)),
        Look::Same => return Err(gone("its volume.json cannot be read")),
    };
    if known.file.format > FORMAT {
        let (found, latest) = (known.file.format, FORMAT);
        return Err(Refusal::Worker(format!("volume.json has format {found}, this version knows up to {latest}")));
    }
    if known.file.generation != *generation {
        return Err(gone("another volume lies at its path now"));
    }
    if let Some(snapshot) = &spec.snapshot {
        match look(&*clients.shown, None).await? {
            Look::New(frozen) if frozen.file.generation == snapshot.generation => {}
            Look::New(_) => return Err(gone("the snapshot that it shows is of another volume")),
            Look::None(_) | Look::Same => return Err(gone("the snapshot that it shows is not there")),
        }
    }
    Ok(Some(known))
}

/// Proves that the store accepts the client's credential, where the volume is known: that nothing lies there any more
/// is the answer to somebody it knows, too.
pub(super) async fn prove(clients: &Clients, spec: &VolumeSpec, known: Option<&Version>) -> Result<(), backend::Error> {
    match spec.generation {
        Some(_) => look(clients.own(), known).await.map(drop)?,
        None => clients.shown.stat(&Path::root()).await.map(drop)?,
    }
    match spec.snapshot {
        Some(_) => look(&*clients.shown, None).await.map(drop),
        None => Ok(()),
    }
}

/// Reads the volume's own file, where it is not what is `known`.
///
/// # Errors
/// What the store refused the request with.
pub(super) async fn look(backend: &dyn Backend, known: Option<&Version>) -> Result<Look, backend::Error> {
    let none = |why: &str| Ok(Look::None(why.to_owned()));
    let (meta, bytes) = match records::fetch(backend, &volume_file_at(&Path::root()), LONGEST_FILE, known).await {
        Ok(Fetched::Same) => return Ok(Look::Same),
        Ok(Fetched::New { meta, bytes }) => (meta, bytes),
        Err(error) => match error.kind {
            ErrorKind::NotFound => return none("its directory holds no volume.json"),
            ErrorKind::TooLarge | ErrorKind::IsADirectory => return none("its volume.json is no small file"),
            _ => return Err(error),
        },
    };
    Ok(match (serde_json::from_slice(&bytes), meta.version()) {
        (Ok(file), Some(version)) => Look::New(Known { version: version.clone(), file }),
        (Err(error), _) => Look::None(format!("its volume.json cannot be understood: {error}")),
        (Ok(_), None) => Look::None("its volume.json is no file".to_owned()),
    })
}
