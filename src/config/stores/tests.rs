use std::path::Path;

use super::*;

const ONE: &str = "
stores:
  - name: lake
    backend: s3
    endpoint: http://127.0.0.1:9000
    bucket: data
    prefix: teams/a
";

fn refused(text: &str) -> String {
    Stores::parse(text, Path::new("")).unwrap_err().to_string()
}

#[test]
fn a_short_file_has_sane_defaults() {
    let stores = Stores::parse(ONE, Path::new("")).unwrap();
    let lake = stores.get("lake").unwrap();
    assert_eq!(lake.credentials, Credentials::Secret);
    assert_eq!(lake.deletion, Deletion::Current);
    let backend::Config::S3(config) = &lake.backend else { panic!("{lake:?}") };
    assert!(config.path_style && config.max_connections == 64);
    assert_eq!(stores.names(), "lake");
}

#[test]
fn an_unknown_field_is_refused_with_its_place() {
    let error = refused(&ONE.replace("prefix: teams/a", "prefixx: teams/a"));
    assert!(error.contains("prefixx") && error.contains("line 7") && error.contains("column 5"), "{error}");
}

#[test]
fn each_wrong_word_is_refused_with_a_reason() {
    for (from, to, why) in [
        ("name: lake", "name: Lake", "1 to 32"),
        ("name: lake", "name: a-name-that-is-longer-than-thirty-two", "1 to 32"),
        ("bucket: data", "bucket: data--usw2-az1--x-s3", "directory bucket"),
        ("bucket: data", "bucket: x/y", "bucket"),
        ("prefix: teams/a", "prefix: /teams", "prefix"),
        ("prefix: teams/a", "prefix: a/../b", "'..'"),
        ("prefix: teams/a", "prefix: a/.millrace", "driver's own"),
        ("endpoint: http://127.0.0.1:9000", "endpoint: ftp://host", "endpoint must be"),
        ("endpoint: http://127.0.0.1:9000", "endpoint: http://host/path", "endpoint must be"),
        ("endpoint: http://127.0.0.1:9000", "deletion: keep", "region is needed"),
        ("prefix: teams/a", "limits: {connections: 0}", "at least 1"),
        ("prefix: teams/a", "limits: {memory: lots}", "limits.memory"),
        ("prefix: teams/a", "capacity: 1.5Ti", "capacity: must be a whole number"),
        ("prefix: teams/a", "caBundle: no/such/file.pem", "no/such/file.pem"),
    ] {
        assert!(ONE.contains(from));
        let error = refused(&ONE.replace(from, to));
        assert!(error.contains(why), "{to}: {error}");
    }
}

#[test]
fn residency_and_inline_volumes_are_understood() {
    let text = format!(
        "{ONE}    residency: {{jurisdiction: [eu, uk], zone: [a]}}
    inline:
      - {{namespace: 'ml-*', paths: ['sets', 'teams/${{pod.namespace}}']}}
"
    );
    let stores = Stores::parse(&text, Path::new("")).unwrap();
    let lake = stores.get("lake").unwrap();
    assert_eq!(lake.residency.as_ref().unwrap().to_string(), "jurisdiction is eu or uk and zone is a");
    assert_eq!(lake.inline.as_ref().unwrap().to_string(), "ml-*: sets, teams/${pod.namespace}");
    let lake = Stores::parse(ONE, Path::new("")).unwrap().get("lake").cloned().unwrap();
    assert!(lake.residency.is_none() && lake.inline.is_none());
}

#[test]
fn what_is_wrong_with_them_is_told_with_its_place() {
    for (words, why) in [
        ("residency: {country: [de]}", "country"),
        ("residency: {zone: a}", "sequence"),
        ("residency: {zone: []}", "allows no zone"),
        ("residency: {zone: [none]}", "nothing is known"),
        ("residency: {}", "no domain"),
        ("residency: {zone: ['a b']}", "\"a b\""),
        ("inline: []", "no rule"),
        ("inline: {team-a: [sets]}", "sequence"),
        ("inline: [{namespace: team-a}]", "paths"),
        ("inline: [{namespace: team-a, path: sets}]", "`path`"),
        ("inline: [{namespace: Team, paths: [sets]}]", "\"Team\""),
        ("inline: [{namespace: team-a, paths: [../b]}]", "'..'"),
    ] {
        let error = refused(&format!("{ONE}    {words}\n"));
        assert!(error.contains(why) && error.contains("line 8") && error.contains("column"), "{words}: {error}");
    }
}

#[test]
fn a_password_in_an_address_is_not_repeated() {
    let error = refused(&ONE.replace("http://127.0.0.1", "http://me:canary@127.0.0.1"));
    assert!(error.contains("endpoint must be") && !error.contains("canary"), "{error}");
}

#[test]
fn stores_that_overlap_are_refused() {
    let two = |bucket: &str, prefix: &str| {
        format!(
            "{ONE}
  - {{name: other, backend: s3, endpoint: 'http://127.0.0.1:9000', bucket: {bucket}, prefix: '{prefix}'}}"
        )
    };
    for prefix in ["", "teams", "teams/a", "teams/a/b"] {
        assert!(refused(&two("data", prefix)).contains("overlap"), "{prefix}");
    }
    for (bucket, prefix) in [("data", "teams/ab"), ("data", "teams/b"), ("data2", "")] {
        assert!(Stores::parse(&two(bucket, prefix), Path::new("")).is_ok(), "{bucket} {prefix}");
    }
}

#[test]
fn a_changed_file_counts_only_if_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stores.yaml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write(ONE);
    let live = LiveStores::load(&file).unwrap();
    assert_eq!(live.reload(), Ok(false));
    write(&format!("{ONE}    deletion: keep\n"));
    assert_eq!(live.reload(), Ok(true));
    assert_eq!(live.current().get("lake").unwrap().deletion, Deletion::Keep);
    for bad in ["stores: [", &ONE.replace("teams/a", "teams/b"), &ONE.replace("9000", "9001")] {
        write(bad);
        assert!(live.reload().is_err());
        assert_eq!(live.current().get("lake").unwrap().deletion, Deletion::Keep);
    }
    write("stores: []");
    assert_eq!(live.reload(), Ok(true));
    assert!(live.current().get("lake").is_none());
}

proptest::proptest! {
    /// Whatever stands in the words, there is a store that keeps to its own rules or a reason that can be read.
    #[test]
    fn no_words_panic_and_what_is_taken_can_be_meant(
        domain in "jurisdiction|region|zone|rack|none|\\PC{0,6}",
        values in proptest::collection::vec("[a-c]|none|\\PC{0,70}", 0..4),
        namespace in "[a-z*-]{0,8}|\\PC{0,70}",
        paths in proptest::collection::vec("sets|\\$\\{pod\\.namespace\\}|[a-c./*$]{0,8}|\\PC{0,8}", 0..3),
    ) {
        let words = serde_json::json!({"stores": [{
            "name": "lake", "backend": "s3", "endpoint": "http://127.0.0.1:9000", "bucket": "data",
            "residency": {domain: values}, "inline": [{"namespace": namespace, "paths": paths}],
        }]});
        // JSON is YAML.
        match Stores::parse(&words.to_string(), Path::new("")) {
            Ok(stores) => {
                let lake = stores.get("lake").unwrap();
                let (residency, inline) = (lake.residency.as_ref().unwrap(), lake.inline.as_ref().unwrap());
                proptest::prop_assert!(!residency.to_string().contains("none"));
                proptest::prop_assert!(residency.admits(&crate::topology::Place::default()).is_err());
                let reserved = backend::Path::parse("other/.millrace/records").unwrap();
                let everything = paths.iter().any(String::is_empty);
                proptest::prop_assert!(everything || !inline.allows(&namespace, &reserved));
            }
            Err(why) => proptest::prop_assert!(!why.to_string().is_empty()),
        }
    }
}

const HOMES: &str = "
stores:
  - name: homes
    backend: nfs
    server: Filer.example
    export: /srv/homes
    prefix: teams
    identities:
      - namespace: team-a
        users: [{name: alice, uid: 1000, gid: 100, groups: [7]}]
";

#[test]
fn an_nfs_store_says_where_it_is_and_who_may_be_whom() {
    let stores = Stores::parse(HOMES, Path::new("")).unwrap();
    let homes = stores.get("homes").unwrap();
    let backend::Config::Nfs(config) = &homes.backend else { panic!("{homes:?}") };
    assert_eq!((config.connections, config.port, config.mount_port), (4, None, None));
    assert_eq!((config.server_groups, config.privileged_ports), (false, false));
    let privileged = Stores::parse(&HOMES.replace("prefix: teams", "privilegedPorts: true"), Path::new("")).unwrap();
    assert!(privileged.get("homes").unwrap().backend.privileged().is_some());
    let Credentials::Listed(identities) = &homes.credentials else { panic!("{homes:?}") };
    assert_eq!(identities.user(Some("team-a"), None).unwrap().uid, 1000);
    let hash = |text: &str| Stores::parse(text, Path::new("")).unwrap().get("homes").unwrap().location_hash();
    assert_eq!(hash(HOMES), hash(&HOMES.replace("Filer", "filer").replace("server:", "port: 2049\n    server:")));
    for (from, to) in [("Filer", "other"), ("/srv/homes", "/srv"), ("prefix: teams", "prefix: teams/a")] {
        assert_ne!(hash(HOMES), hash(&HOMES.replace(from, to)), "{to}");
    }
    // One path, however it is cut into export and prefix.
    assert_eq!(hash(HOMES), hash(&HOMES.replace("/srv/homes", "/srv").replace("prefix: teams", "prefix: homes/teams")));
}

#[test]
fn each_wrong_word_of_an_nfs_store_is_refused_with_a_reason() {
    for (from, to, why) in [
        ("server: Filer.example", "region: x", "region means nothing"),
        ("server: Filer.example", "deletion: keep", "server is needed"),
        ("server: Filer.example", "server: 'filer:2049'", "host name"),
        ("server: Filer.example", "server: '[::1]'", "without brackets"),
        ("export: /srv/homes", "export: srv", "absolute"),
        ("export: /srv/homes", "export: /srv/", "no slash"),
        ("export: /srv/homes", "export: /srv/../x", "'..'"),
        ("export: /srv/homes", "bucket: data", "bucket means nothing"),
        ("prefix: teams", "port: 0", "1 to 65535"),
        ("prefix: teams", "limits: {connections: 9}", "1 to 8"),
        ("prefix: teams", "limits: {connections: 0}", "1 to 8"),
        ("prefix: teams", "limits: {requestsPerSecond: 5}", "requestsPerSecond means nothing"),
        ("prefix: teams", "controllerCredential: x", "controllerUser"),
        ("prefix: teams", "controllerUser: {uid: 1000, gid: 1}", "alice"),
        ("prefix: teams", "controllerUser: {uid: 7}", "gid"),
        ("prefix: teams", "controllerUser: {uid: 4294967295, gid: 1}", "nobody's"),
        ("prefix: teams", "deletion: all", "keeps no old versions"),
        ("prefix: teams", "credentials: secret", "credentials means nothing"),
        ("uid: 1000", "uid: 0", "uid 0"),
        ("name: alice", "name: hive", "superusers"),
        ("groups: [7]", "group: 7", "group"),
    ] {
        assert!(HOMES.contains(from));
        let error = refused(&HOMES.replace(from, to));
        assert!(error.contains(why), "{to}: {error}");
    }
    let with = HOMES.replace("prefix: teams", "controllerUser: {uid: 7, gid: 8, groups: [9]}");
    let stores = Stores::parse(&with, Path::new("")).unwrap();
    let expected = auth::Credential::Sys { uid: 7, gid: 8, groups: vec![9] };
    assert_eq!(stores.get("homes").unwrap().controller_credential, Some(ControllerKey::User(expected)));
    assert!(refused(&ONE.replace("prefix: teams/a", "controllerUser: {uid: 1, gid: 1}")).contains("means nothing"));
    let without = HOMES.split("    identities").next().unwrap();
    assert!(refused(without).contains("identities is needed"));
    assert!(refused(&ONE.replace("prefix: teams/a", "export: /x")).contains("export means nothing"));
    let inside = HOMES.replace("name: homes", "name: inside").replace("prefix: teams", "prefix: teams/a");
    let both = format!("{HOMES}{}", inside.replace("\nstores:\n", ""));
    assert!(refused(&both).contains("overlap"), "{both}");
    let beside = both.replace("teams/a", "team");
    assert!(Stores::parse(&beside, Path::new("")).is_ok());
    for server in ["::1", "127.0.0.1", "filer"] {
        assert!(Stores::parse(&HOMES.replace("Filer.example", &format!("'{server}'")), Path::new("")).is_ok());
    }
}

const LAKE: &str = "
stores:
  - name: lake
    backend: hdfs
    nameNodes: ['NN1.example:8020', 'nn2.example:8020']
    webHdfs: ['http://nn1.example:9870', 'http://nn2.example:9870/']
    prefix: data
    identities:
      - namespace: team-a
        users: [{name: alice, uid: 1000, gid: 100}]
      - namespace: team-b
        users: [{name: bob, uid: 1001, gid: 100}, {name: alice, uid: 1000, gid: 100}]
    groups: {users: 100}
";

#[test]
fn an_hdfs_store_says_where_it_is_and_who_may_be_whom() {
    let stores = Stores::parse(LAKE, Path::new("")).unwrap();
    let lake = stores.get("lake").unwrap();
    let backend::Config::Hdfs(config) = &lake.backend else { panic!("{lake:?}") };
    assert_eq!(config.namenodes, ["nn1.example:8020", "nn2.example:8020"]);
    assert_eq!(config.webhdfs, ["http://nn1.example:9870", "http://nn2.example:9870"]);
    assert_eq!(
        (config.owners.users["alice"], config.owners.users["bob"], config.owners.groups["users"]),
        (1000, 1001, 100)
    );
    let Credentials::Listed(identities) = &lake.credentials else { panic!("{lake:?}") };
    assert_eq!(identities.user(Some("team-b"), Some("bob")).unwrap().uid, 1001);
    let hash = |text: &str| Stores::parse(text, Path::new("")).unwrap().get("lake").unwrap().location_hash();
    let turned = LAKE.replace("['NN1.example:8020', 'nn2.example:8020']", "['nn2.example:8020', 'nn1.example:8020']");
    assert_eq!(hash(LAKE), hash(&turned));
    assert_ne!(hash(LAKE), hash(&LAKE.replace("prefix: data", "prefix: other")));
}

#[test]
fn each_wrong_word_of_an_hdfs_store_is_refused_with_a_reason() {
    for (from, to, why) in [
        ("nameNodes: ['NN1.example:8020', 'nn2.example:8020']", "capacity: 1Gi", "nameNodes is needed"),
        ("'nn2.example:8020'", "'nn1.example:8020'", "twice"),
        ("'nn2.example:8020'", "'nn2.example'", "no host:port"),
        ("'nn2.example:8020'", "'hdfs://nn2.example:8020'", "no host:port"),
        ("'nn2.example:8020'", "'nn2.example:0'", "no host:port"),
        ("webHdfs: ['http://nn1.example:9870', 'http://nn2.example:9870/']", "capacity: 1Gi", "webHdfs is needed"),
        ("'http://nn1.example:9870'", "'nn1.example:9870'", "http|https"),
        ("'http://nn1.example:9870'", "'http://nn1.example:9870/webhdfs/v1'", "nothing after it"),
        ("prefix: data", "prefix: 'a:b'", "colon"),
        ("prefix: data", "bucket: data", "bucket means nothing"),
        ("prefix: data", "limits: {connections: 0}", "at least 1"),
        ("prefix: data", "controllerCredential: x", "controllerUser"),
        ("prefix: data", "controllerUser: {uid: 7, gid: 7}", "has a name"),
        ("prefix: data", "controllerUser: {name: 'a b'}", "white space"),
        ("prefix: data", "controllerUser: {name: alice}", "controller's"),
        ("prefix: data", "controllerUser: {name: boss, uid: 1000}", "a number one name"),
        ("prefix: data", "deletion: all", "no old versions"),
        ("prefix: data", "options: {fs.defaultFS: x}", "options"),
        ("prefix: data", "realm: A", "realm means nothing"),
        ("prefix: data", "authentication: token", "authentication"),
        ("prefix: data", "authentication: kerberos", "realm is needed"),
        (
            "prefix: data",
            "authentication: kerberos\n    realm: A\n    kdcs: ['k:88']\n    controllerUser: {name: boss}",
            "controllerCredential, which is missing",
        ),
        ("uid: 1001", "uid: 0", "uid 0"),
        ("uid: 1001", "uid: 1000", "a number one name"),
        ("uid: 1001", "uid: 65534", "in no table"),
        ("name: bob", "name: hdfs", "superusers"),
        (
            "{name: alice, uid: 1000, gid: 100}]\n      - namespace: team-b",
            "{name: alice, uid: 7, gid: 100}]\n      - namespace: team-b",
            "one number",
        ),
        ("uid: 1001, gid: 100", "uid: 1001, gid: 100, groups: [5]", "by itself"),
        ("groups: {users: 100}", "groups: {users: 100, staff: 100}", "a number one name"),
    ] {
        assert!(LAKE.contains(from), "{from}");
        let error = refused(&LAKE.replace(from, to));
        assert!(error.contains(why), "{to}: {error}");
    }
    let without = LAKE.split("    identities").next().unwrap();
    assert!(refused(without).contains("identities is needed"));
    assert!(refused(&HOMES.replace("prefix: teams", "nameNodes: [x:1]")).contains("nameNodes means nothing"));
    assert!(refused(&ONE.replace("prefix: teams/a", "webHdfs: [x]")).contains("webHdfs means nothing"));
    // One name node in common is one file system.
    let inside =
        LAKE.replace("name: lake", "name: inside").replace("'NN1.example:8020', ", "").replace("data", "data/a");
    let both = format!("{LAKE}{}", inside.replace("\nstores:\n", ""));
    assert!(refused(&both).contains("overlap"), "{both}");
    assert!(Stores::parse(&both.replace("data/a", "other"), Path::new("")).is_ok());
    let with = LAKE.replace("prefix: data", "controllerUser: {name: boss, uid: 7}");
    let stores = Stores::parse(&with, Path::new("")).unwrap();
    let lake = stores.get("lake").unwrap();
    let boss = auth::Credential::Hadoop { user: "boss".into() };
    assert_eq!(lake.controller_credential, Some(ControllerKey::User(boss)));
    let Credentials::Listed(identities) = &lake.credentials else { panic!("{lake:?}") };
    assert!(matches!(identities.user(Some("team-a"), Some("boss")), Err(Unlisted::Nobody(_))));
    let proven = LAKE.replace("prefix: data", "authentication: kerberos\n    realm: A\n    kdcs: ['k:88']");
    let stores = Stores::parse(&proven, Path::new("")).unwrap();
    let lake = stores.get("lake").unwrap();
    assert_eq!(lake.backend.realm().unwrap().name, "A");
    assert!(matches!(&lake.credentials, Credentials::Principal(Some(_))));
    let keyed = proven.replace(
        "    realm: A",
        "    controllerCredential: boss\n    controllerUser: {name: boss, uid: 7}\n    realm: A",
    );
    let stores = Stores::parse(&keyed, Path::new("/keys")).unwrap();
    let lake = stores.get("lake").unwrap();
    assert_eq!(lake.controller_credential, Some(ControllerKey::File("/keys/boss".into())));
    let Credentials::Principal(Some(identities)) = &lake.credentials else { panic!("{lake:?}") };
    assert!(matches!(identities.user(Some("team-a"), Some("boss")), Err(Unlisted::Nobody(_))));
    let alone = proven.split("    identities").next().unwrap();
    let stores = Stores::parse(alone, Path::new("")).unwrap();
    assert_eq!(stores.get("lake").unwrap().credentials, Credentials::Principal(None));
    assert!(refused(&format!("{alone}    superusers: [x]")).contains("superusers means nothing"));
    let option = LAKE.replace("prefix: data", "options: {dfs.client.use.datanode.hostname: 'true'}");
    assert!(Stores::parse(&option, Path::new("")).is_ok());
}
