//! The procedures of NFSv3 (RFC 1813) as typed calls with a deadline.

use bytes::{Buf, Bytes};
use nfs3_types::nfs3::{self as wire, NFS_PROGRAM, Nfs3Option, Nfs3Result, nfs_fh3, nfsstat3, post_op_attr};
use nfs3_types::xdr_codec::{Pack, Unpack, Void};
use std::time::Duration;
use tokio::time::{Instant, sleep};

use super::error::Failure;
use super::rpc::{Call, Client, Reply};
use super::{lengths, meter};
use crate::backend::meter::{Meter, answered};
use crate::tunable::Span;

pub(super) type Outcome<T> = std::result::Result<T, Failure>;

/// Pauses of a call that the server asks to make again later (NFS3ERR_JUKEBOX).
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A server as one principal.
#[derive(Debug)]
pub(super) struct Server {
    client: Client,
    timeout: Span,
    meter: Meter,
}

/// What a READ gave.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) attributes: Option<wire::fattr3>,
    pub(super) data: Bytes,
    pub(super) eof: bool,
}

/// Results, and whether the call was sent more than once: then an error may be the second execution's.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) outcome: Outcome<T>,
    pub(super) resent: bool,
}

impl Server {
    pub(super) fn new(client: Client, timeout: Span) -> Server {
        Server { client, timeout, meter: Meter::new() }
    }

    pub(super) async fn getattr(&self, object: &nfs_fh3) -> Outcome<wire::fattr3> {
        let asked = wire::GETATTR3args { object: object.clone() };
        let ok: wire::GETATTR3resok = self.ask::<_, _, Void>(NFS_PROGRAM::NFSPROC3_GETATTR, &asked).await?;
        Ok(ok.obj_attributes)
    }

    /// Which of the `ACCESS3_...` bits in `access` the server grants.
    pub(super) async fn access(&self, object: &nfs_fh3, access: u32) -> Outcome<wire::ACCESS3resok> {
        let asked = wire::ACCESS3args { object: object.clone(), access };
        self.ask::<_, _, wire::ACCESS3resfail>(NFS_PROGRAM::NFSPROC3_ACCESS, &asked).await
    }

    pub(super) async fn fsinfo(&self, fsroot: &nfs_fh3) -> Outcome<wire::FSINFO3resok> {
        let asked = wire::FSINFO3args { fsroot: fsroot.clone() };
        self.ask::<_, _, wire::FSINFO3resfail>(NFS_PROGRAM::NFSPROC3_FSINFO, &asked).await
    }

    pub(super) async fn fsstat(&self, fsroot: &nfs_fh3) -> Outcome<wire::FSSTAT3resok> {
        let asked = wire::FSSTAT3args { fsroot: fsroot.clone() };
        self.ask::<_, _, wire::FSSTAT3resfail>(NFS_PROGRAM::NFSPROC3_FSSTAT, &asked).await
    }

    pub(super) async fn lookup(&self, dir: &nfs_fh3, name: &[u8]) -> Outcome<wire::LOOKUP3resok> {
        let asked = wire::LOOKUP3args { what: entry(dir, name) };
        self.ask::<_, _, wire::LOOKUP3resfail>(NFS_PROGRAM::NFSPROC3_LOOKUP, &asked).await
    }

    pub(super) async fn setattr(&self, object: &nfs_fh3, new_attributes: wire::sattr3) -> Outcome<wire::SETATTR3resok> {
        let asked = wire::SETATTR3args { object: object.clone(), new_attributes, guard: Nfs3Option::None };
        self.ask::<_, _, wire::SETATTR3resfail>(NFS_PROGRAM::NFSPROC3_SETATTR, &asked).await
    }

    pub(super) async fn create(&self, dir: &nfs_fh3, name: &[u8], how: wire::createhow3) -> Answer<wire::CREATE3resok> {
        let asked = wire::CREATE3args { where_: entry(dir, name), how };
        self.ask_once::<_, _, wire::CREATE3resfail>(NFS_PROGRAM::NFSPROC3_CREATE, &asked).await
    }

    pub(super) async fn mkdir(&self, dir: &nfs_fh3, name: &[u8], mode: u32) -> Answer<wire::MKDIR3resok> {
        let attributes = wire::sattr3 { mode: Nfs3Option::Some(mode), ..wire::sattr3::default() };
        let asked = wire::MKDIR3args { where_: entry(dir, name), attributes };
        self.ask_once::<_, _, wire::MKDIR3resfail>(NFS_PROGRAM::NFSPROC3_MKDIR, &asked).await
    }

    pub(super) async fn remove(&self, dir: &nfs_fh3, name: &[u8]) -> Answer<wire::REMOVE3resok> {
        let asked = wire::REMOVE3args { object: entry(dir, name) };
        self.ask_once::<_, _, wire::REMOVE3resfail>(NFS_PROGRAM::NFSPROC3_REMOVE, &asked).await
    }

    pub(super) async fn rmdir(&self, dir: &nfs_fh3, name: &[u8]) -> Answer<wire::RMDIR3resok> {
        let asked = wire::RMDIR3args { object: entry(dir, name) };
        self.ask_once::<_, _, wire::RMDIR3resfail>(NFS_PROGRAM::NFSPROC3_RMDIR, &asked).await
    }

    pub(super) async fn rename(&self, from: (&nfs_fh3, &[u8]), to: (&nfs_fh3, &[u8])) -> Answer<wire::RENAME3resok> {
        let asked = wire::RENAME3args { from: entry(from.0, from.1), to: entry(to.0, to.1) };
        self.ask_once::<_, _, wire::RENAME3resfail>(NFS_PROGRAM::NFSPROC3_RENAME, &asked).await
    }

    pub(super) async fn link(&self, file: &nfs_fh3, dir: &nfs_fh3, name: &[u8]) -> Answer<wire::LINK3resok> {
        let asked = wire::LINK3args { file: file.clone(), link: entry(dir, name) };
        self.ask_once::<_, _, wire::LINK3resfail>(NFS_PROGRAM::NFSPROC3_LINK, &asked).await
    }

    pub(super) async fn symlink(&self, dir: &nfs_fh3, name: &[u8], target: &[u8]) -> Answer<wire::SYMLINK3resok> {
        let symlink = wire::symlinkdata3 { symlink_attributes: wire::sattr3::default(), symlink_data: target.into() };
        let asked = wire::SYMLINK3args { where_: entry(dir, name), symlink };
        self.ask_once::<_, _, wire::SYMLINK3resfail>(NFS_PROGRAM::NFSPROC3_SYMLINK, &asked).await
    }

    pub(super) async fn readlink(&self, symlink: &nfs_fh3) -> Outcome<Bytes> {
        let asked = wire::READLINK3args { symlink: symlink.clone() };
        let ok: wire::READLINK3resok<'static> =
            self.ask::<_, _, wire::READLINK3resfail>(NFS_PROGRAM::NFSPROC3_READLINK, &asked).await?;
        Ok(ok.data.0.into_owned().into())
    }

    pub(super) async fn readdir(&self, asked: &wire::READDIR3args) -> Outcome<wire::READDIR3resok<'static>> {
        self.ask::<_, _, wire::READDIR3resfail>(NFS_PROGRAM::NFSPROC3_READDIR, asked).await
    }

    pub(super) async fn readdirplus(
        &self,
        asked: &wire::READDIRPLUS3args,
    ) -> Outcome<wire::READDIRPLUS3resok<'static>> {
        self.ask::<_, _, wire::READDIRPLUS3resfail>(NFS_PROGRAM::NFSPROC3_READDIRPLUS, asked).await
    }

    /// Makes all of a file lasting. `patience` is for a call that may take longer than others.
    pub(super) async fn commit(&self, file: &nfs_fh3, patience: Option<Duration>) -> Outcome<wire::COMMIT3resok> {
        let mut arguments = Vec::with_capacity(80);
        wire::COMMIT3args { file: file.clone(), offset: 0, count: 0 }.pack(&mut arguments)?;
        let call = Call { procedure: number(NFS_PROGRAM::NFSPROC3_COMMIT), arguments, data: Bytes::new() };
        self.send::<_, wire::COMMIT3resfail>(&call, patience).await.outcome
    }

    /// Writes all or a beginning of `data`, which is not copied, unstable. `patience` is as of [`Server::commit`].
    pub(super) async fn write(
        &self,
        file: &nfs_fh3,
        offset: u64,
        data: Bytes,
        patience: Option<Duration>,
    ) -> Outcome<wire::WRITE3resok> {
        let mut arguments = Vec::with_capacity(96);
        let length = u32::try_from(data.len()).map_err(|_| Failure::corrupt("a WRITE of more than 4 GiB"))?;
        file.pack(&mut arguments)?;
        offset.pack(&mut arguments)?;
        length.pack(&mut arguments)?;
        wire::stable_how::UNSTABLE.pack(&mut arguments)?;
        length.pack(&mut arguments)?;
        let call = Call { procedure: number(NFS_PROGRAM::NFSPROC3_WRITE), arguments, data };
        let ok: wire::WRITE3resok = self.send::<_, wire::WRITE3resfail>(&call, patience).await.outcome?;
        if ok.count > length {
            return Err(Failure::corrupt("the server wrote more than it was given"));
        }
        Ok(ok)
    }

    /// Reads `count` bytes or fewer. The bytes are a part of the message that they came in.
    pub(super) async fn read(&self, file: &nfs_fh3, offset: u64, count: u32) -> Outcome<Read> {
        let mut arguments = Vec::with_capacity(96);
        wire::READ3args { file: file.clone(), offset, count }.pack(&mut arguments)?;
        let call = Call { procedure: number(NFS_PROGRAM::NFSPROC3_READ), arguments, data: Bytes::new() };
        let reply = self.patiently(&call, None).await?;
        let mut results = reply.results;
        match unpacked::<nfsstat3>(&mut results)? {
            nfsstat3::NFS3_OK => {}
            status => return Err(status.into()),
        }
        let attributes = unpacked::<post_op_attr>(&mut results)?;
        let (given, eof) = (unpacked::<u32>(&mut results)?, unpacked::<bool>(&mut results)?);
        let length = unpacked::<u32>(&mut results)?;
        if given != length || length > count || length as usize > results.len() {
            return Err(Failure::corrupt("the server gave another number of bytes than it says, or than was asked"));
        }
        Ok(Read { attributes: option(attributes), data: results.split_to(length as usize), eof })
    }

    /// A call that may be carried out twice.
    async fn ask<A: Pack, T: Unpack, E: Unpack>(&self, procedure: NFS_PROGRAM, asked: &A) -> Outcome<T> {
        self.ask_once::<A, T, E>(procedure, asked).await.outcome
    }

    async fn ask_once<A: Pack, T: Unpack, E: Unpack>(&self, procedure: NFS_PROGRAM, asked: &A) -> Answer<T> {
        let mut arguments = Vec::with_capacity(asked.packed_size());
        match asked.pack(&mut arguments) {
            Ok(_) => {
                self.send::<T, E>(&Call { procedure: number(procedure), arguments, data: Bytes::new() }, None).await
            }
            Err(error) => Answer { outcome: Err(error.into()), resent: false },
        }
    }

    async fn send<T: Unpack, E: Unpack>(&self, call: &Call, patience: Option<Duration>) -> Answer<T> {
        let mut reply = match self.patiently(call, patience).await {
            Ok(reply) => reply,
            Err(failure) => return Answer { outcome: Err(failure), resent: false },
        };
        let checked = lengths::checked(call.procedure.2, &reply.results);
        let outcome = match checked.and_then(|()| unpacked::<Nfs3Result<T, E>>(&mut reply.results)) {
            Ok(Nfs3Result::Ok(ok)) => Ok(ok),
            Ok(Nfs3Result::Err((status, _))) => Err(status.into()),
            Err(failure) => Err(failure),
        };
        Answer { outcome, resent: reply.resent }
    }

    /// Makes the call again where the server asks for patience, until its deadline is over.
    async fn patiently(&self, call: &Call, patience: Option<Duration>) -> Outcome<Reply> {
        let (patience, begun) = (patience.unwrap_or_else(|| self.timeout.get()), Instant::now());
        let mut pause = PATIENCE.0;
        loop {
            self.meter.sent(call.arguments.len() + call.data.len());
            let asked = Instant::now();
            let answer = self.client.call(call, patience.saturating_sub(begun.elapsed())).await;
            let answer = answer.map_err(Failure::from);
            let status = answer.as_ref().ok().and_then(|reply| reply.results.clone().try_get_u32().ok());
            answered(meter::kind(call.procedure.2), meter::status(status), asked.elapsed());
            let reply = answer?;
            self.meter.fetched(reply.results.len());
            if status != Some(nfsstat3::NFS3ERR_JUKEBOX as u32) {
                return Ok(reply);
            }
            if begun.elapsed() + pause >= patience {
                return Err(Failure::busy(patience));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PATIENCE.1);
        }
    }
}

fn number(procedure: NFS_PROGRAM) -> (u32, u32, u32) {
    (wire::PROGRAM, wire::VERSION, procedure as u32)
}

fn entry<'a>(dir: &nfs_fh3, name: &'a [u8]) -> wire::diropargs3<'a> {
    wire::diropargs3 { dir: dir.clone(), name: name.into() }
}

/// Takes a value off the beginning of `results`.
pub(super) fn unpacked<T: Unpack>(results: &mut Bytes) -> Outcome<T> {
    let mut rest = &results[..];
    let (value, _) = T::unpack(&mut rest)?;
    let used = results.len() - rest.len();
    results.advance(used);
    Ok(value)
}

/// The protocol's option as Rust's.
pub(super) fn option<T: Pack + Unpack>(option: Nfs3Option<T>) -> Option<T> {
    match option {
        Nfs3Option::Some(value) => Some(value),
        Nfs3Option::None => None,
    }
}
