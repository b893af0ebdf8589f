//! Calls and replies as bytes (RFC 5531, section 9).

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Call, Reply, Trouble, record};

const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;

/// Who makes a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend::nfs) enum Credential {
    /// Nobody in particular: AUTH_NONE.
    None,
    /// AUTH_SYS: a claim without a proof.
    Sys {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Further groups. The protocol has room for 16; a longer list is cut, since a server that resolves groups by
        /// itself looks at none of them.
        groups: Vec<u32>,
    },
}

/// Room for groups in AUTH_SYS (RFC 5531, appendix A).
const MOST_GROUPS: usize = 16;

/// Why a server does not carry out a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend::nfs) enum Refusal {
    /// It does not accept the credential (`auth_stat`).
    Authentication(u32),
    /// It does not serve this program.
    NoProgram,
    /// It serves the program in other versions, from the first to the second.
    Versions(u32, u32),
    /// It does not know this procedure.
    NoProcedure,
    /// It does not understand the arguments.
    Arguments,
    /// It met an error of its own.
    System,
    /// It speaks another version of RPC.
    Rpc,
}

/// AUTH_TOOWEAK (RFC 5531, section 9).
pub(in crate::backend::nfs) const TOO_WEAK: u32 = 5;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Authentication(TOO_WEAK) => f.write_str(
                "the server wants stronger authentication than AUTH_SYS (such as sec=krb5), which this driver does not speak, \
                 or calls from privileged ports alone: set privilegedPorts: true in the stores file then",
            ),
            Refusal::Authentication(stat) => write!(f, "the server does not accept the credential (auth_stat {stat})"),
            Refusal::NoProgram => f.write_str("the server does not serve this program"),
            Refusal::Versions(low, high) => {
                write!(f, "the server serves this program in versions {low} to {high} only")
            }
            Refusal::NoProcedure => f.write_str("the server does not know this procedure"),
            Refusal::Arguments => f.write_str("the server does not understand the arguments"),
            Refusal::System => f.write_str("the server met an error of its own"),
            Refusal::Rpc => f.write_str("the server speaks another version of RPC"),
        }
    }
}

/// A call as it is sent, but for its data and that data's padding.
pub(super) fn encode(xid: u32, call: &Call, credential: &Credential) -> Bytes {
    let mut message = BytesMut::with_capacity(256 + call.arguments.len());
    message.put_u32(0);
    let (program, version, procedure) = call.procedure;
    for word in [xid, CALL, RPC_VERSION, program, version, procedure] {
        message.put_u32(word);
    }
    match credential {
        Credential::None => message.put_u64(u64::from(AUTH_NONE)),
        Credential::Sys { uid, gid, groups } => {
            let groups = &groups[..groups.len().min(MOST_GROUPS)];
            // Stamp, an empty machine name, ids, groups.
            let words = [0, 0, *uid, *gid, groups.len() as u32];
            message.put_u32(AUTH_SYS);
            message.put_u32(4 * (words.len() + groups.len()) as u32);
            words.iter().chain(groups).for_each(|word| message.put_u32(*word));
        }
    }
    // The verifier.
    message.put_u64(u64::from(AUTH_NONE));
    message.put_slice(&call.arguments);
    let length = message.len() - 4 + call.data.len() + padding(call.data.len()).len();
    message[..4].copy_from_slice(&record::mark(length));
    message.freeze()
}

/// The zeroes behind an opaque of so many bytes.
pub(super) fn padding(length: usize) -> &'static [u8] {
    &[0; 3][..length.wrapping_neg() & 3]
}

/// The transaction that a reply is of, and what it says; `None` for what is no reply of any.
pub(super) fn decode(mut message: Bytes) -> Option<(u32, Result<Reply, Trouble>)> {
    let xid = message.try_get_u32().ok()?;
    (message.try_get_u32() == Ok(REPLY)).then(|| (xid, results(message)))
}

fn results(mut message: Bytes) -> Result<Reply, Trouble> {
    let short = |_| Trouble::Garbled("it ends too early");
    let refused = |refusal| Err(Trouble::Refused(refusal));
    match message.try_get_u32().map_err(short)? {
        0 => {}
        1 => {
            return match message.try_get_u32().map_err(short)? {
                0 => refused(Refusal::Rpc),
                _ => refused(Refusal::Authentication(message.try_get_u32().map_err(short)?)),
            };
        }
        _ => return Err(Trouble::Garbled("it is neither accepted nor denied")),
    }
    message.try_get_u32().map_err(short)?;
    let verifier = message.try_get_u32().map_err(short)? as usize;
    let verifier = verifier.saturating_add(padding(verifier).len());
    if verifier > message.remaining() {
        return Err(Trouble::Garbled("it ends too early"));
    }
    message.advance(verifier);
    match message.try_get_u32().map_err(short)? {
        0 => Ok(Reply { results: message, resent: false }),
        1 => refused(Refusal::NoProgram),
        2 => {
            let low = message.try_get_u32().map_err(short)?;
            refused(Refusal::Versions(low, message.try_get_u32().map_err(short)?))
        }
        3 => refused(Refusal::NoProcedure),
        4 => refused(Refusal::Arguments),
        5 => refused(Refusal::System),
        _ => Err(Trouble::Garbled("its status is unknown")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[u32]) -> Bytes {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn a_call_carries_who_makes_it() {
        let call = Call { procedure: (100_003, 3, 7), arguments: vec![0, 0, 0, 5], data: Bytes::from_static(b"12345") };
        let groups: Vec<u32> = (100..120).collect();
        let sent = encode(9, &call, &Credential::Sys { uid: 1, gid: 2, groups: groups.clone() });
        let mut expected = vec![0, 9, 0, 2, 100_003, 3, 7, 1, 4 * 21, 0, 0, 1, 2, 16];
        expected.extend_from_slice(&groups[..16]);
        expected.extend_from_slice(&[0, 0, 5]);
        // The data and three zeroes follow.
        expected[0] = (1 << 31) | (4 * (expected.len() as u32 - 1) + 8);
        assert_eq!(sent, words(&expected));
        let anonymous = encode(9, &Call { data: Bytes::new(), ..call }, &Credential::None);
        assert_eq!(anonymous, words(&[(1 << 31) | 44, 9, 0, 2, 100_003, 3, 7, 0, 0, 0, 0, 5]));
        assert_eq!([0, 1, 2, 3, 4].map(|length| padding(length).len()), [0, 3, 2, 1, 0]);
    }

    #[test]
    fn every_kind_of_reply_is_understood() {
        let refused = |refusal| Err(Trouble::Refused(refusal));
        for (message, expected) in [
            (&[0, 0, 0, 0, 42][..], Ok(42)),
            (&[0, 6, 8, 1, 2, 0, 42], Ok(42)),
            (&[0, 0, 0, 1], refused(Refusal::NoProgram)),
            (&[0, 0, 0, 2, 4, 4], refused(Refusal::Versions(4, 4))),
            (&[0, 0, 0, 3], refused(Refusal::NoProcedure)),
            (&[0, 0, 0, 4], refused(Refusal::Arguments)),
            (&[0, 0, 0, 5], refused(Refusal::System)),
            (&[1, 0, 2, 2], refused(Refusal::Rpc)),
            (&[1, 1, 5], refused(Refusal::Authentication(5))),
            (&[0, 0, 0], Err(Trouble::Garbled("it ends too early"))),
            (&[0, 0, u32::MAX, 0], Err(Trouble::Garbled("it ends too early"))),
            (&[7], Err(Trouble::Garbled("it is neither accepted nor denied"))),
        ] {
            let (xid, outcome) = decode(words(&[&[77, REPLY], message].concat())).unwrap();
            assert_eq!((xid, outcome.map(|mut reply| reply.results.get_u32())), (77, expected), "{message:?}");
        }
        assert!(decode(words(&[77, CALL])).is_none() && decode(words(&[77])).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(bytes.into());
        }
    }
}
