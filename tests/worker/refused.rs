//! What a pod's events say where the store refuses: a real node plugin, its workers, and the documented texts.

use tonic::Code;

use super::scraped::static_volume;
use super::*;

#[test]
fn what_the_store_refuses_is_told_in_documented_words_on_the_pod() {
    let Some(rig) = Rig::new() else { return };
    let server = |options| rig.runtime.block_on(Server::start(options)).unwrap();
    let options = |bucket: &str| Options {
        users: vec![User::new(KEY, SECRET)],
        buckets: vec![bucket.into()],
        ..Options::default()
    };
    let behind_tls = server(Options { tls: true, ..options("bucket") });
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stores = [
        ("lake", rig.server.endpoint(), "bucket"),
        ("down", format!("http://{closed}"), "bucket"),
        ("tls", behind_tls.endpoint(), "bucket"),
        ("empty", rig.server.endpoint(), "nothing"),
    ];
    let words = stores.map(|(name, endpoint, bucket)| {
        format!("{{name: {name}, backend: s3, endpoint: '{endpoint}', bucket: {bucket}}}")
    });
    let plugin = rig.plugin_of(&format!("stores: [{}]", words.join(", ")), &[]);
    rig.server.users().add(User::new("mallory", SECRET).with(Rights::under("bucket/elsewhere/")));
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md")).unwrap();
    let mut missing = Vec::new();
    for (situation, store, key, secret) in [
        ("wrong key", "lake", KEY, "wrong"),
        ("unknown key", "lake", "nobody", SECRET),
        ("no right to the directory", "lake", "mallory", SECRET),
        ("store down", "down", KEY, SECRET),
        ("certificate not trusted", "tls", KEY, SECRET),
        ("no such bucket", "empty", KEY, SECRET),
    ] {
        let attributes = [("store", store), ("path", "data"), ("timeout", "1s")];
        let request = static_volume(&rig.target(store), &attributes, key, secret);
        let status = rig.runtime.block_on(plugin.node().node_publish_volume(request)).unwrap_err();
        assert_ne!(status.code(), Code::Internal, "{situation}: {status:?}");
        for never in [SECRET, KEY, "127.0.0.1", "localhost", "HTTP", "SignatureDoesNotMatch", "AccessDenied"] {
            assert!(!status.message().contains(never), "{situation}: {status:?}");
        }
        let text = status.message().replace(&format!("{store:?}"), "\"lake\"");
        let row = format!("| {situation} | NodePublishVolume | {:?} | {text} |", status.code());
        if !page.lines().any(|line| line == row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "docs/events.md should have:\n{}", missing.join("\n"));
    assert_eq!(rig.mounts(), Vec::<String>::new());
}
