use proptest::prelude::*;

use super::*;

const DRIVER: &str = "csi.example.org";

/// `jurisdiction=eu zone=a` as segments of the driver; a key with a `/` stays as it is.
fn term(text: &str) -> Term {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    let full = |key: &str| if key.contains('/') { key.to_owned() } else { format!("{DRIVER}/{key}") };
    pairs.map(|(key, value)| (full(key), value.to_owned())).collect()
}

/// `jurisdiction=eu,uk zone=a`.
fn residency(text: &str) -> Result<Residency, BadValue> {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    let values = |text: &str| text.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect();
    let all: BTreeMap<_, _> = pairs.map(|(word, text)| (Domain::named(word).unwrap(), values(text))).collect();
    Residency::try_from(all)
}

fn place(text: &str) -> Place {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    Place::new(pairs.map(|(word, value)| (Domain::named(word).unwrap(), value.to_owned()))).unwrap()
}

#[test]
fn a_volume_is_reachable_where_its_store_allows() {
    const EVERYWHERE: &str = "jurisdiction=eu region=eu-1 zone=a rack=r1";
    for (allowed, requisite, chosen) in [
        // Nothing is asked: the residency decides.
        ("jurisdiction=eu", &[][..], Some(&["jurisdiction=eu"][..])),
        // One of what is asked is enough, whichever it is, and what is answered is the residency.
        ("jurisdiction=eu", &[EVERYWHERE], Some(&["jurisdiction=eu"])),
        ("jurisdiction=eu", &["jurisdiction=us zone=x", "jurisdiction=eu zone=a"], Some(&["jurisdiction=eu"])),
        ("jurisdiction=eu", &["jurisdiction=us zone=x", "jurisdiction=none"], None),
        ("jurisdiction=eu", &["jurisdiction=EU"], None),
        // A term that says nothing of a domain contradicts nothing.
        ("jurisdiction=eu", &["zone=a"], Some(&["jurisdiction=eu"])),
        ("jurisdiction=eu", &[""], Some(&["jurisdiction=eu"])),
        ("jurisdiction=eu", &["other.example.org/jurisdiction=us"], Some(&["jurisdiction=eu"])),
        // Every domain that is named counts.
        ("jurisdiction=eu zone=a", &["jurisdiction=eu zone=b", "jurisdiction=us zone=a"], None),
        ("jurisdiction=eu zone=a", &["jurisdiction=eu zone=b", EVERYWHERE], Some(&["jurisdiction=eu zone=a"])),
        // Several values multiply.
        (
            "jurisdiction=eu,uk rack=r1,r2",
            &["jurisdiction=uk rack=r2"],
            Some(&[
                "jurisdiction=eu rack=r1",
                "jurisdiction=eu rack=r2",
                "jurisdiction=uk rack=r1",
                "jurisdiction=uk rack=r2",
            ]),
        ),
        // Keys are compared without regard to case.
        ("jurisdiction=eu", &["CSI.Example.org/Jurisdiction=us"], None),
    ] {
        let residency = residency(allowed).unwrap();
        let asked: Vec<_> = requisite.iter().map(|text| term(text)).collect();
        let expected = chosen.map(|terms| terms.iter().map(|text| term(text)).collect::<Vec<_>>());
        assert_eq!(choose(Some(&residency), DRIVER, &asked).ok(), expected, "{allowed}: {requisite:?}");
    }
    let asked = [term("jurisdiction=us")];
    assert_eq!(choose(None, DRIVER, &asked), Ok(vec![]));
}

#[test]
fn an_unmet_requirement_says_what_is_allowed() {
    let residency = residency("jurisdiction=eu,uk zone=a").unwrap();
    let asked = [term("jurisdiction=us zone=a"), term("jurisdiction=none")];
    let error = choose(Some(&residency), DRIVER, &asked).unwrap_err().to_string();
    assert_eq!(
        error,
        "data may be shown only where jurisdiction is eu or uk and zone is a, and none of the 2 topologies that were \
         asked for is there (the first: csi.example.org/jurisdiction=us, csi.example.org/zone=a)"
    );
}

#[test]
fn a_node_is_admitted_where_every_domain_agrees() {
    for (allowed, at, outside) in [
        ("jurisdiction=eu", "jurisdiction=eu region=eu-1", None),
        ("jurisdiction=eu,uk", "jurisdiction=uk", None),
        ("jurisdiction=eu", "jurisdiction=us", Some("jurisdiction is us")),
        ("jurisdiction=eu", "region=eu-1", Some("jurisdiction is none")),
        ("jurisdiction=eu", "", Some("jurisdiction is none")),
        ("jurisdiction=eu", "jurisdiction=none", Some("jurisdiction is none")),
        ("jurisdiction=eu zone=a,b", "jurisdiction=eu zone=c", Some("zone is c")),
        ("zone=a rack=r1", "zone=a rack=r1", None),
    ] {
        let admitted = residency(allowed).unwrap().admits(&place(at)).map_err(|error| error.to_string());
        match outside {
            None => assert_eq!(admitted, Ok(()), "{allowed}: {at}"),
            Some(why) => assert!(admitted.clone().unwrap_err().ends_with(why), "{allowed}: {at}: {admitted:?}"),
        }
    }
}

#[test]
fn a_node_reports_all_four() {
    let expected = term("jurisdiction=none region=eu-1 zone=none rack=none");
    assert_eq!(place("region=eu-1 jurisdiction=none").segments(DRIVER), expected);
    assert_eq!(Place::default().segments(DRIVER).len(), 4);
    let twice = Place::new([(Domain::Zone, "flag".into()), (Domain::Zone, "label".into())]).unwrap();
    assert_eq!(twice.of(Domain::Zone), "flag");
    let unknown = Place::new([(Domain::Zone, UNKNOWN.into()), (Domain::Zone, "label".into())]).unwrap();
    assert_eq!(unknown.of(Domain::Zone), UNKNOWN, "a flag may say that nothing is known");
}

#[test]
fn a_residency_that_could_hold_nothing_is_refused() {
    let many: Vec<_> = (0..9).map(|at| format!("v{at}")).collect();
    for (text, why) in [
        (String::new(), "no domain"),
        ("zone=".into(), "allows no zone"),
        ("zone=a,none".into(), "nothing is known"),
        ("zone=-a".into(), "begins and ends"),
        ("zone=a/b".into(), "zone \"a/b\""),
        (format!("zone={}", "z".repeat(64)), "1 to 63"),
        (format!("zone={0} rack={0}", many.join(",")), "more than 64"),
    ] {
        let error = residency(&text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert!(residency(&format!("zone={} rack=a,b,c,d,e,f,g", many.join(","))).is_ok());
}

fn any_residency() -> impl Strategy<Value = Residency> {
    let values = || prop::collection::btree_set("[a-c]", 1..3);
    prop::collection::btree_map(prop::sample::select(Domain::ALL.to_vec()), values(), 1..=4)
        .prop_map(|all| Residency::try_from(all).unwrap())
}

fn any_place() -> impl Strategy<Value = Place> {
    prop::collection::btree_map(prop::sample::select(Domain::ALL.to_vec()), "[a-d]", 0..=4)
        .prop_map(|all| Place::new(all).unwrap())
}

proptest! {
    /// What the scheduler is told and what a publish decides are one thing: a node is admitted exactly where its own
    /// segments meet the residency, and exactly where they agree with one of the topologies that a volume is given.
    #[test]
    fn the_scheduler_and_the_publish_agree(residency in any_residency(), place in any_place()) {
        let node = place.segments(DRIVER);
        let admitted = residency.admits(&place).is_ok();
        prop_assert_eq!(residency.meets(DRIVER, &node), admitted);
        let chosen = choose(Some(&residency), DRIVER, &[]).unwrap();
        prop_assert!((1..=MOST_SEGMENTS).contains(&chosen.len()));
        let reachable = chosen.iter().any(|term| term.iter().all(|(key, value)| node.get(key) == Some(value)));
        prop_assert_eq!(reachable, admitted);
        prop_assert_eq!(choose(Some(&residency), DRIVER, [&node]).is_ok(), admitted);
    }

    #[test]
    fn no_text_panics(value in "\\PC{0,80}", keys in prop::collection::hash_map("\\PC{0,20}", "\\PC{0,20}", 0..4)) {
        let _ = check_value(Domain::Zone, &value);
        let residency = residency("zone=a").unwrap();
        let _ = residency.meets(&value, &keys);
        let _ = choose(Some(&residency), &value, [&keys]);
    }
}
