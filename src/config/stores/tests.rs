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
    let backend::Config::S3(config) = &lake.backend;
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
