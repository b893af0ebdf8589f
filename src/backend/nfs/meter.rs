//! What an NFS call is for and how it was answered, in the words of the metrics.

use nfs3_types::nfs3::{NFS_PROGRAM, nfsstat3};

use crate::backend::meter::UNREACHED;

/// What the procedure of that number is for.
pub(super) fn kind(procedure: u32) -> &'static str {
    let is = |one: NFS_PROGRAM| procedure == one as u32;
    match procedure {
        _ if is(NFS_PROGRAM::NFSPROC3_READ) => "read",
        _ if is(NFS_PROGRAM::NFSPROC3_WRITE) || is(NFS_PROGRAM::NFSPROC3_COMMIT) => "write",
        _ if is(NFS_PROGRAM::NFSPROC3_READDIR) || is(NFS_PROGRAM::NFSPROC3_READDIRPLUS) => "list",
        _ if is(NFS_PROGRAM::NFSPROC3_GETATTR)
            || is(NFS_PROGRAM::NFSPROC3_LOOKUP)
            || is(NFS_PROGRAM::NFSPROC3_ACCESS) =>
        {
            "stat"
        }
        _ if is(NFS_PROGRAM::NFSPROC3_REMOVE) || is(NFS_PROGRAM::NFSPROC3_RMDIR) => "remove",
        _ => "other",
    }
}

/// How a call was answered, by its status; `None` where it was not.
pub(super) fn status(status: Option<u32>) -> &'static str {
    let Some(status) = status else { return UNREACHED };
    let is = |one: nfsstat3| status == one as u32;
    match status {
        _ if is(nfsstat3::NFS3_OK) => "ok",
        _ if is(nfsstat3::NFS3ERR_NOENT) => "not-found",
        _ if is(nfsstat3::NFS3ERR_ACCES) || is(nfsstat3::NFS3ERR_PERM) => "denied",
        _ if is(nfsstat3::NFS3ERR_STALE) || is(nfsstat3::NFS3ERR_EXIST) => "conflict",
        _ if is(nfsstat3::NFS3ERR_JUKEBOX) => "throttled",
        _ if is(nfsstat3::NFS3ERR_IO) || is(nfsstat3::NFS3ERR_SERVERFAULT) => "fault",
        _ => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_by_its_procedure_and_its_status() {
        let kinds = [NFS_PROGRAM::NFSPROC3_READ, NFS_PROGRAM::NFSPROC3_LOOKUP, NFS_PROGRAM::NFSPROC3_MKDIR];
        assert_eq!(kinds.map(|procedure| kind(procedure as u32)), ["read", "stat", "other"]);
        let ends = [nfsstat3::NFS3_OK, nfsstat3::NFS3ERR_NOENT, nfsstat3::NFS3ERR_JUKEBOX, nfsstat3::NFS3ERR_NOTEMPTY];
        assert_eq!(ends.map(|end| status(Some(end as u32))), ["ok", "not-found", "throttled", "refused"]);
        assert_eq!(status(None), "unreached");
    }
}
