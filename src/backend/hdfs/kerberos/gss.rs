//! The part of GSS-API (RFC 2744) that one proof over HTTP takes, by MIT's library where this system has it.
//!
//! Its calls wait for the KDC, some of them for many seconds: none is made on a thread that others wait for.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use super::super::error::{Failure, Outcome};
use super::{EXPIRED, KRB5, Login, meaning};
use crate::backend::ErrorKind;

/// As distributions name it.
const LIBRARY: &str = "libgssapi_krb5.so.2";

/// GSS_C_NT_HOSTBASED_SERVICE, GSS_KRB5_NT_PRINCIPAL_NAME, and Kerberos itself.
const SERVICE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x01, 0x04];
const PRINCIPAL: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02, 0x01];
const KERBEROS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02];

const INDEFINITE: u32 = u32::MAX;
const INITIATE: c_int = 1;
/// GSS_C_MUTUAL_FLAG, GSS_C_REPLAY_FLAG, GSS_C_SEQUENCE_FLAG: the server proves itself, too. Nothing is delegated.
const FLAGS: u32 = 2 | 4 | 8;
const MUTUAL: u32 = 2;
/// Calling and routine errors of a major status.
const ERRORS: u32 = 0xffff_0000;
const CONTINUE_NEEDED: u32 = 1;

type Opaque = *mut c_void;

#[repr(C)]
struct Buffer {
    length: usize,
    value: *mut c_void,
}

#[repr(C)]
struct Oid {
    length: u32,
    elements: *const c_void,
}

#[repr(C)]
struct OidSet {
    count: usize,
    elements: *const Oid,
}

#[repr(C)]
struct KeyValue {
    key: *const c_char,
    value: *const c_char,
}

#[repr(C)]
struct KeyValues {
    count: u32,
    elements: *const KeyValue,
}

type ImportName = unsafe extern "C" fn(*mut u32, *const Buffer, *const Oid, *mut Opaque) -> u32;
type AcquireCred = unsafe extern "C" fn(
    *mut u32,
    Opaque,
    u32,
    *const OidSet,
    c_int,
    *const KeyValues,
    *mut Opaque,
    *mut Opaque,
    *mut u32,
) -> u32;
type InitContext = unsafe extern "C" fn(
    *mut u32,
    Opaque,
    *mut Opaque,
    Opaque,
    *const Oid,
    u32,
    u32,
    Opaque,
    *const Buffer,
    *mut Opaque,
    *mut Buffer,
    *mut u32,
    *mut u32,
) -> u32;
type Release = unsafe extern "C" fn(*mut u32, *mut Opaque) -> u32;
type ReleaseBuffer = unsafe extern "C" fn(*mut u32, *mut Buffer) -> u32;
type DeleteContext = unsafe extern "C" fn(*mut u32, *mut Opaque, *mut Buffer) -> u32;

/// The library's functions, for as long as this process lives.
pub(super) struct Gss {
    import_name: ImportName,
    release_name: Release,
    acquire_cred: AcquireCred,
    release_cred: Release,
    init_context: InitContext,
    delete_context: DeleteContext,
    release_buffer: ReleaseBuffer,
}

/// Loads the library, once.
///
/// # Errors
/// What to install where it is missing.
pub(super) fn library() -> Result<&'static Gss, &'static str> {
    static LOADED: OnceLock<Result<Gss, String>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(String::as_str)
}

#[expect(unsafe_code, reason = "a library of C, found at run time")]
fn load() -> Result<Gss, String> {
    let missing = |error: libloading::Error| {
        format!(
            "Kerberos needs MIT's library {LIBRARY} on the node plugin's system (Debian: libgssapi-krb5-2): {error}"
        )
    };
    // SAFETY: its initializers are those of a library made to be loaded into any process.
    let library = unsafe { libloading::Library::new(LIBRARY) }.map_err(missing)?;
    // It is never unloaded: what is taken from it below stays valid.
    let library: &'static libloading::Library = Box::leak(Box::new(library));
    // SAFETY: the types are those of MIT's gssapi.h and gssapi_ext.h, which are its binary interface.
    unsafe {
        Ok(Gss {
            import_name: *library.get(b"gss_import_name\0").map_err(missing)?,
            release_name: *library.get(b"gss_release_name\0").map_err(missing)?,
            acquire_cred: *library.get(b"gss_acquire_cred_from\0").map_err(missing)?,
            release_cred: *library.get(b"gss_release_cred\0").map_err(missing)?,
            init_context: *library.get(b"gss_init_sec_context\0").map_err(missing)?,
            delete_context: *library.get(b"gss_delete_sec_context\0").map_err(missing)?,
            release_buffer: *library.get(b"gss_release_buffer\0").map_err(missing)?,
        })
    }
}

fn oid(bytes: &'static [u8]) -> Oid {
    Oid { length: bytes.len() as u32, elements: bytes.as_ptr().cast() }
}

fn buffer(bytes: &[u8]) -> Buffer {
    Buffer { length: bytes.len(), value: bytes.as_ptr().cast_mut().cast() }
}

fn check(major: u32, minor: u32) -> Outcome<()> {
    match major & ERRORS {
        0 => Ok(()),
        _ => Err(meaning(minor)),
    }
}

/// A name, a credential or a context, given back when dropped.
struct Object {
    raw: Opaque,
    release: Release,
}

impl Drop for Object {
    #[expect(unsafe_code, reason = "a library of C")]
    fn drop(&mut self) {
        let mut minor = 0;
        if !self.raw.is_null() {
            // SAFETY: `raw` came from the library, which is loaded for ever, and is released once.
            unsafe { (self.release)(&raw mut minor, &raw mut self.raw) };
        }
    }
}

/// A proof to one service, half made: what the service answers has to be its own proof.
pub(in super::super) struct Proof {
    gss: &'static Gss,
    context: Opaque,
    credential: Object,
    target: Object,
}

#[expect(unsafe_code, reason = "raw pointers are not Send by themselves")]
// SAFETY: the library's objects belong to no thread, and here nobody shares them.
unsafe impl Send for Proof {}

impl Proof {
    /// Logs in where it must, and gives the proof that is to be sent to `service@host`. Waits for the KDC.
    pub(in super::super) fn begin(login: &Login, service: &str) -> Outcome<(Proof, Vec<u8>)> {
        let gss = library().map_err(|why| Failure::new(ErrorKind::Misconfigured, why))?;
        match Proof::by(gss, login, &login.cache(), service) {
            // Why there are no others is told where there are none at all.
            Err(failure) if failure == meaning((KRB5 + EXPIRED).cast_unsigned()) => {
                let begun = Proof::by(gss, login, &login.cache_after(1), service)?;
                login.next_cache();
                Ok(begun)
            }
            begun => begun,
        }
    }

    /// With the tickets of `cache`, or those that are put into it.
    fn by(gss: &'static Gss, login: &Login, cache: &str, service: &str) -> Outcome<(Proof, Vec<u8>)> {
        let credential = credential(gss, login, cache)?;
        let target = name(gss, service, SERVICE)?;
        let mut proof = Proof { gss, context: null_mut(), credential, target };
        match proof.step(None)? {
            (token, false) if !token.is_empty() => Ok((proof, token)),
            _ => Err(Failure::corrupt("a proof that asks for none")),
        }
    }

    /// Whether the answer proves that it is the service's.
    pub(in super::super) fn finish(mut self, answer: &[u8]) -> Outcome<()> {
        match self.step(Some(answer)) {
            Ok((_, true)) => Ok(()),
            _ => Err(Failure::new(ErrorKind::Unauthenticated, "the name node did not prove that it is the one meant")),
        }
    }

    /// What is to be sent, and whether nothing more is to come.
    #[expect(unsafe_code, reason = "a library of C")]
    fn step(&mut self, received: Option<&[u8]>) -> Outcome<(Vec<u8>, bool)> {
        let (mut minor, mut flags) = (0, 0);
        let received = received.map(buffer);
        let mechanism = oid(KERBEROS);
        let mut out = Buffer { length: 0, value: null_mut() };
        // SAFETY: all pointers are to values that live until the call returns; null stands for what is not wanted.
        let major = unsafe {
            (self.gss.init_context)(
                &raw mut minor,
                self.credential.raw,
                &raw mut self.context,
                self.target.raw,
                &raw const mechanism,
                FLAGS,
                INDEFINITE,
                null_mut(),
                received.as_ref().map_or(null(), std::ptr::from_ref),
                null_mut(),
                &raw mut out,
                &raw mut flags,
                null_mut(),
            )
        };
        let mut token = Vec::new();
        if !out.value.is_null() {
            // SAFETY: the library gave a block of that length, which is copied before it is given back, once.
            unsafe {
                token.extend_from_slice(std::slice::from_raw_parts(out.value.cast::<u8>(), out.length));
                let mut ignored = 0;
                (self.gss.release_buffer)(&raw mut ignored, &raw mut out);
            }
        }
        check(major, minor)?;
        let done = major & CONTINUE_NEEDED == 0;
        if done && flags & MUTUAL == 0 {
            return Err(Failure::new(ErrorKind::Unauthenticated, "the name node did not prove who it is"));
        }
        Ok((token, done))
    }
}

impl Drop for Proof {
    #[expect(unsafe_code, reason = "a library of C")]
    fn drop(&mut self) {
        let mut minor = 0;
        if !self.context.is_null() {
            // SAFETY: the context came from the library, and is deleted once.
            unsafe { (self.gss.delete_context)(&raw mut minor, &raw mut self.context, null_mut()) };
        }
    }
}

#[expect(unsafe_code, reason = "a library of C")]
fn name(gss: &Gss, text: &str, kind: &'static [u8]) -> Outcome<Object> {
    let (text, kind) = (buffer(text.as_bytes()), oid(kind));
    let (mut minor, mut raw) = (0, null_mut());
    // SAFETY: all pointers are to values that live until the call returns.
    let major = unsafe { (gss.import_name)(&raw mut minor, &raw const text, &raw const kind, &raw mut raw) };
    check(major, minor)?;
    Ok(Object { raw, release: gss.release_name })
}

/// The principal's own credential: by its keytab, and by the tickets that it has already.
#[expect(unsafe_code, reason = "a library of C")]
fn credential(gss: &Gss, login: &Login, cache: &str) -> Outcome<Object> {
    let text = |text: &str| CString::new(text).map_err(|_| Failure::corrupt("a path with a zero byte"));
    let principal = name(gss, login.principal(), PRINCIPAL)?;
    let (cache, keytab) = (text(cache)?, text(login.keytab()?)?);
    let places = [
        KeyValue { key: c"ccache".as_ptr(), value: cache.as_ptr() },
        KeyValue { key: c"client_keytab".as_ptr(), value: keytab.as_ptr() },
    ];
    let store = KeyValues { count: places.len() as u32, elements: places.as_ptr() };
    let kerberos = oid(KERBEROS);
    let mechanisms = OidSet { count: 1, elements: &raw const kerberos };
    let (mut minor, mut raw) = (0, null_mut());
    // SAFETY: all pointers are to values that live until the call returns; null stands for what is not wanted.
    let major = unsafe {
        (gss.acquire_cred)(
            &raw mut minor,
            principal.raw,
            INDEFINITE,
            &raw const mechanisms,
            INITIATE,
            &raw const store,
            &raw mut raw,
            null_mut(),
            null_mut(),
        )
    };
    check(major, minor)?;
    Ok(Object { raw, release: gss.release_cred })
}
