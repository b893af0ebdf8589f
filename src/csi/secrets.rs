//! Secrets of requests that nothing is to be done with.

use std::collections::HashMap;

use zeroize::Zeroize;

/// Wipes and drops the secrets of a request, before anything else is done with it.
pub(super) fn forget(secrets: &mut HashMap<String, String>) {
    for (mut word, mut value) in secrets.drain() {
        word.zeroize();
        value.zeroize();
    }
}
