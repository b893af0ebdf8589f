//! `Debug` of the messages that hold secrets, without the secrets.
//!
//! Which messages and fields those are is read from the descriptors at build time (`proto/build.rs`): every field with
//! the `csi_secret` option, `mount_flags`, and the service-account tokens in a `volume_context`. prost makes no `Debug`
//! for these messages, so that one that is missing here does not compile.

use std::collections::HashMap;
use std::fmt;

use super::v1::*;

/// Words of `volume_context` whose value is a secret: what the kubelet adds for drivers that ask for tokens.
pub(super) const SECRET_CONTEXT: [&str; 1] = ["csi.storage.k8s.io/serviceAccount.tokens"];

/// Stands for a value that is not shown; says only whether there is one.
struct Hidden(bool);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "***" } else { "none" })
    }
}

/// A `volume_context` without its tokens.
struct Context<'a>(&'a HashMap<String, String>);

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (word, value) in self.0 {
            match SECRET_CONTEXT.contains(&word.as_str()) {
                true => map.entry(word, &Hidden(true)),
                false => map.entry(word, value),
            };
        }
        map.finish()
    }
}

macro_rules! redacted {
    ($($message:ident)::+ : $($field:ident: $how:ident),*) => {
        impl fmt::Debug for $($message)::+ {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($($message)::+))
                    $(.field(stringify!($field), redacted!(@$how self.$field)))*
                    .finish()
            }
        }
    };
    (@shown $value:expr) => { &$value };
    (@hidden $value:expr) => { &Hidden(!$value.is_empty()) };
    (@context $value:expr) => { &Context(&$value) };
}

include!(concat!(env!("OUT_DIR"), "/redacted.rs"));

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

    use super::SECRET_CONTEXT;
    use crate::csi::v1;

    const CANARY: &str = "canary-in-a-secret";
    const PLAIN: &str = "plain-text";

    /// Decodes a message and formats it both ways.
    fn shown<M: Message + Default + std::fmt::Debug>(wire: &[u8]) -> String {
        let message = M::decode(wire).unwrap();
        format!("{message:?}\n{message:#?}")
    }

    /// How a message looks whose bytes are given.
    type Shown = fn(&[u8]) -> String;

    /// Every message of the interface by its name.
    const MESSAGES: &[(&str, Shown)] = &include!(concat!(env!("OUT_DIR"), "/messages.rs"));

    fn is_secret(field: &FieldDescriptor) -> bool {
        let pool = field.parent_pool();
        let option = pool.get_extension_by_name("csi.v1.csi_secret").unwrap();
        let marked = *field.options().get_extension(&option) == Value::Bool(true);
        marked || field.name() == "mount_flags"
    }

    /// A message with something in every field, and the canary wherever something is secret.
    fn filled(message: &MessageDescriptor) -> DynamicMessage {
        let mut full = DynamicMessage::new(message.clone());
        for field in message.fields() {
            let text = if is_secret(&field) { CANARY } else { PLAIN };
            let value = if field.is_map() {
                let mut map = vec![(text, text)];
                if field.name() == "volume_context" {
                    map.extend(SECRET_CONTEXT.map(|word| (word, CANARY)));
                }
                Value::Map(
                    map.iter().map(|(k, v)| (MapKey::String(k.to_string()), Value::String(v.to_string()))).collect(),
                )
            } else if field.is_list() {
                Value::List(vec![one(&field, text)])
            } else {
                one(&field, text)
            };
            full.set_field(&field, value);
        }
        full
    }

    fn one(field: &FieldDescriptor, text: &str) -> Value {
        match field.kind() {
            Kind::String => Value::String(text.to_owned()),
            Kind::Message(inner) => Value::Message(filled(&inner)),
            Kind::Bool => Value::Bool(true),
            Kind::Int32 => Value::I32(7),
            Kind::Int64 => Value::I64(7),
            Kind::Enum(_) => Value::EnumNumber(1),
            other => panic!("{}: no filling for {other:?}", field.full_name()),
        }
    }

    #[test]
    fn no_message_shows_a_secret() {
        let pool = DescriptorPool::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
        let mut secrets = Vec::new();
        for (name, show) in MESSAGES {
            let message = pool.get_message_by_name(name).unwrap();
            secrets.extend(message.fields().filter(is_secret));
            let full = filled(&message);
            let text = show(&full.encode_to_vec());
            assert!(!text.contains(CANARY), "{name} shows a secret: {text}");
            let plain = message.fields().any(|field| field.kind() == Kind::String && !is_secret(&field));
            assert!(!plain || text.contains(PLAIN), "{name} shows nothing: {text}");
        }
        let marked = secrets.iter().filter(|field| field.name() != "mount_flags").count();
        assert!(marked >= 22, "v1.13.0 marks 22 fields, and {marked} were found");
        let service = |name: &str| name.starts_with("google.");
        let all = pool.all_messages().filter(|m| !m.is_map_entry() && !service(m.full_name())).count();
        assert_eq!(MESSAGES.len(), all);
    }
}
