//! What a pod's events say where its volume is not mounted: the documented texts. What the store
//! refuses is met in `tests/worker`.

use super::inline::inline;
use super::*;
use crate::csi::golden::undocumented;

#[tokio::test]
async fn what_the_driver_refuses_is_told_in_documented_words() {
    let plugin = plugin();
    let with = |change: fn(&mut NodePublishVolumeRequest)| {
        let mut request = request("x", &[("store", "lake"), ("path", "a")]);
        change(&mut request);
        request
    };
    let walled = request("static", &[("store", "walled"), ("path", "sets")]);
    let mut met = Vec::new();
    for (situation, request) in [
        ("no Secret named", with(|r| r.secrets.clear())),
        ("half a Secret", with(|r| drop(r.secrets.remove("access_key")))),
        ("another Secret's keys", with(|r| r.secrets = map(&[("password", "canary")]))),
        ("unknown store", request("x", &[("store", "pond"), ("path", "a")])),
        ("unknown attribute", request("x", &[("store", "lake"), ("memorry", "1Gi")])),
        ("wrong value", request("x", &[("store", "lake"), ("memory", "canary")])),
        ("residency", walled),
        ("inline volumes forbidden", inline("web", &[("store", "lake"), ("path", "sets")])),
        ("inline directory forbidden", inline("web", &[("store", "shelf"), ("path", "teams/ml-1")])),
    ] {
        let status = plugin.publish(request).await.unwrap_err();
        assert!(!status.message().contains("canary"), "{status:?}");
        met.push((situation, status));
    }
    assert_eq!(undocumented("NodePublishVolume", &met), "");
}

#[tokio::test]
async fn a_word_of_the_request_is_cut_and_made_plain() {
    let plugin = plugin();
    let nasty = format!("<b>{}\u{1b}[2J", "x".repeat(200));
    for request in [
        request("x", &[("store", &nasty)]),
        request("x", &[("store", "lake"), (&nasty, "canary")]),
        request("x", &[("store", "lake"), ("path", &format!("{nasty}//"))]),
        inline("web", &[("store", "shelf"), ("path", &nasty.replace('\u{1b}', ""))]),
    ] {
        let message = plugin.publish(request).await.unwrap_err().message().to_owned();
        let shown = format!("\"?b?{}\"", "x".repeat(61));
        assert!(message.contains(&shown) && !message.contains(['<', '\u{1b}']), "{message}");
    }
}
