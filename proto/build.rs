//! Compiles `csi.proto` without `protoc`, and lists from its descriptors what `Debug` must not show.
//!
//! Written to `OUT_DIR`: the messages and services (`csi.v1.rs`), the descriptor set with its `csi_secret` options
//! (`csi.desc`), one `redacted!` call for each message that holds something secret (`redacted.rs`), and a list of all
//! messages for the test that looks for leaks (`messages.rs`).

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use heck::{ToSnakeCase, ToUpperCamelCase};
use protox::Compiler;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor, Value};

#[expect(clippy::disallowed_methods, reason = "cargo speaks to a build script by environment variables")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/csi.proto");
    println!("cargo:rerun-if-changed=proto/build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let mut compiler = Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_file("csi.proto")?;
    let pool = compiler.descriptor_pool();
    let messages: Vec<MessageDescriptor> =
        pool.all_messages().filter(|m| m.package_name() == "csi.v1" && !m.is_map_entry()).collect();
    let secretive: Vec<&MessageDescriptor> =
        messages.iter().filter(|m| m.fields().any(|f| shown_as(&pool, &f) != "shown")).collect();

    fs::write(out.join("csi.desc"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("redacted.rs"), redacted(&pool, &secretive)?)?;
    fs::write(out.join("messages.rs"), list(&messages)?)?;
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        .emit_rerun_if_changed(false)
        .skip_debug(secretive.iter().map(|m| format!(".{}", m.full_name())))
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// How `Debug` shows a field: `shown`, `hidden`, or `context`, which hides some of a map's values.
///
/// `mount_flags` has no `csi_secret` option, but the specification says that it may be sensitive; `volume_context` of a
/// publish carries the pod's service-account tokens.
fn shown_as(pool: &DescriptorPool, field: &FieldDescriptor) -> &'static str {
    let secret = pool
        .get_extension_by_name("csi.v1.csi_secret")
        .is_some_and(|option| *field.options().get_extension(&option) == Value::Bool(true));
    match field.name() {
        _ if secret => "hidden",
        "mount_flags" => "hidden",
        "volume_context" => "context",
        _ => "shown",
    }
}

fn redacted(pool: &DescriptorPool, messages: &[&MessageDescriptor]) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    for message in messages {
        // A oneof is one field in Rust; none holds a secret today, and one that did could not be told apart.
        if message.oneofs().len() > 0 {
            return Err(format!("{}: a secret beside a oneof needs a rule here", message.full_name()).into());
        }
        let fields: Vec<String> =
            message.fields().map(|f| format!("{}: {}", f.name().to_snake_case(), shown_as(pool, &f))).collect();
        writeln!(code, "redacted! {{ {}: {} }}", rust_path(message), fields.join(", "))?;
    }
    Ok(code)
}

fn list(messages: &[MessageDescriptor]) -> Result<String, Box<dyn Error>> {
    let mut code = String::from("[\n");
    for message in messages {
        writeln!(code, "    ({:?}, shown::<v1::{}>),", message.full_name(), rust_path(message))?;
    }
    code.push(']');
    Ok(code)
}

/// Where prost puts a message: nested ones in a module named after the outer.
fn rust_path(message: &MessageDescriptor) -> String {
    let mut path = message.name().to_upper_camel_case();
    let mut outer = message.parent_message();
    while let Some(message) = outer {
        path = format!("{}::{path}", message.name().to_snake_case());
        outer = message.parent_message();
    }
    path
}
