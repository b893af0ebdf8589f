//! Where a node is, and what it may show there.

use super::*;

#[tokio::test]
async fn a_node_outside_a_residency_publishes_nothing() {
    let plugin = plugin();
    let location = plugin.node.stores.current().get("walled").unwrap().location_hash();
    let made = request("walled/pvc-1@abcdefg234", &[("format", "1"), ("location", &location)]);
    let fixed = request("static", &[("store", "walled"), ("path", "sets")]);
    for (at, code, why) in [
        (Ok(("jurisdiction", "us")), Code::FailedPrecondition, "jurisdiction is us"),
        (Ok(("region", "eu-1")), Code::FailedPrecondition, "jurisdiction is none"),
        (Err("no answer"), Code::Unavailable, "no answer"),
    ] {
        let place = at.map(|(domain, value)| here(domain, value).place.get().unwrap()).map_err(str::to_owned);
        plugin.node.here.place.set(place);
        for request in [made.clone(), fixed.clone()] {
            let (got, message) = plugin.refused(request).await;
            assert!(got == code && message.contains(why) && message.contains("\"walled\""), "{got:?}: {message}");
        }
        plugin.publish(request(ID, &[])).await.unwrap();
    }
    plugin.node.here.place.set(here("jurisdiction", "eu").place.get());
    for request in [made, fixed] {
        plugin.publish(request).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_says_where_it_is_once_that_is_known() {
    let plugin = plugin();
    let info = async || plugin.node.node_get_info(Request::new(NodeGetInfoRequest {})).await.map(Response::into_inner);
    let segments = info().await.unwrap().accessible_topology.unwrap().segments;
    let expected = [("jurisdiction", "us"), ("region", "none"), ("zone", "none"), ("rack", "none")];
    let full = expected.map(|(domain, value)| (format!("csi.example.org/{domain}"), value.to_owned()));
    assert_eq!(segments, HashMap::from(full));
    plugin.node.here.place.set(Err("not yet".into()));
    let refused = info().await.unwrap_err();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("not yet"), "{refused:?}");
    // A registrar ends where its driver is refused: who has only just started is waited for.
    let place = plugin.node.here.place.clone();
    tokio::spawn(async move {
        tokio::time::sleep(super::super::LOCATING / 2).await;
        place.set(here("jurisdiction", "eu").place.get());
    });
    assert_eq!(info().await.unwrap().accessible_topology.unwrap().segments["csi.example.org/jurisdiction"], "eu");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_residency_is_kept_on_a_node_outside() {
    let plugin = plugin();
    tokio::spawn(plugin.node.tidy_caches());
    let us = || here("jurisdiction", "us").place.get();
    let eu = || here("jurisdiction", "eu").place.get();
    for (place, expected) in [
        (us(), &["lake"][..]),
        (eu(), &["lake", "walled"]),
        // It is not thrown away because it is not known yet where this is.
        (Err("not yet".into()), &["lake", "walled"]),
    ] {
        plugin.node.here.place.set(place);
        tokio::time::sleep(2 * super::super::TIDY).await;
        assert_eq!(plugin.mounter.kept.lock().unwrap().as_deref(), Some(expected));
    }
}
