//! Controllers killed at any request of a change, and at random.

use std::collections::BTreeMap;

use rand::RngExt;
use tonic::Status;

use super::*;

/// For how many seconds controllers are killed at random; `make faults` asks for more.
const SECONDS: &str = "MILLRACE_TEST_KILLING_S";

const SIZE: i64 = 1 << 30;

/// What a volume's nodes read of it.
fn volume_file(rig: &Rig, name: &str) -> serde_json::Value {
    let at = rig.server.keys("data").into_iter().find(|key| key.ends_with(&format!("{name}/.millrace/volume.json")));
    serde_json::from_slice(&rig.server.get("data", &at.unwrap()).unwrap().bytes).unwrap()
}

async fn expand(client: &mut ControllerClient<Channel>, volume_id: &str, size: i64) -> Result<i64, Status> {
    let request = ControllerExpandVolumeRequest {
        volume_id: volume_id.into(),
        capacity_range: Some(CapacityRange { required_bytes: size, limit_bytes: 0 }),
        ..Default::default()
    };
    Ok(client.controller_expand_volume(request).await?.into_inner().capacity_bytes)
}

async fn modify(client: &mut ControllerClient<Channel>, volume_id: &str, ttl: &str) -> Result<(), Status> {
    let mutable_parameters = [("ttl".to_owned(), ttl.to_owned())].into();
    let request =
        ControllerModifyVolumeRequest { volume_id: volume_id.into(), mutable_parameters, ..Default::default() };
    client.controller_modify_volume(request).await.map(drop)
}

async fn create(client: &mut ControllerClient<Channel>, name: &str) -> Result<Volume, Status> {
    Ok(client.create_volume(volume(name, HashMap::new())).await?.into_inner().volume.unwrap())
}

async fn delete(client: &mut ControllerClient<Channel>, volume_id: &str) -> Result<(), Status> {
    let request = DeleteVolumeRequest { volume_id: volume_id.into(), ..Default::default() };
    client.delete_volume(request).await.map(drop)
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Expand,
    Modify,
}

impl Change {
    async fn make(self, client: &mut ControllerClient<Channel>, volume_id: &str) -> Result<(), Status> {
        match self {
            Change::Expand => expand(client, volume_id, 2 * SIZE).await.map(drop),
            Change::Modify => modify(client, volume_id, "7s").await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_killed_at_any_request_of_a_change_leaves_one_that_can_be_made_again() {
    let rig = Rig::new().await;
    let mut other = rig.start("other.sock").await;
    for change in [Change::Expand, Change::Modify] {
        let (mut steps, mut half_done) = (0, 0);
        loop {
            let name = format!("pvc-{change:?}-{steps}").to_lowercase();
            let made = create(&mut other.client, &name).await.unwrap();
            modify(&mut other.client, &made.volume_id, "5s").await.unwrap();
            let first = rig.start("first.sock").await;
            // The n-th request is never answered, and never done.
            rig.server.faults().add(Rule::any(Fault::Silence).skip(steps));
            let (mut client, volume_id) = (first.client.clone(), made.volume_id.clone());
            let mut call = tokio::spawn(async move { change.make(&mut client, &volume_id).await });
            let until = Instant::now() + SOON;
            let done = loop {
                if call.is_finished() {
                    (&mut call).await.unwrap().unwrap();
                    break rig.server.faults().pending() > 0;
                }
                if rig.server.faults().pending() == 0 {
                    break false;
                }
                assert!(Instant::now() < until, "{change:?}: request {steps} does not come");
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            first.kill();
            rig.server.faults().clear();

            // Before or after, never in between, for whoever asks; what nodes read follows what is asked for.
            let listed = other.list().await.into_iter().find(|volume| volume.volume_id == made.volume_id).unwrap();
            let file = volume_file(&rig, &name);
            let seen = (listed.capacity_bytes, file["limit"].as_i64().unwrap(), file["parameters"]["ttl"].clone());
            match change {
                Change::Expand => assert!([SIZE, 2 * SIZE].contains(&seen.0) && seen.1 <= seen.0 && seen.2 == "5s"),
                Change::Modify => assert!(seen.0 == SIZE && seen.1 == SIZE && (seen.2 == "5s" || seen.2 == "7s")),
            }
            half_done += usize::from(seen.0 != seen.1);
            change.make(&mut other.client, &made.volume_id).await.unwrap();
            let file = volume_file(&rig, &name);
            let seen = (file["limit"].as_i64().unwrap(), file["parameters"]["ttl"].clone());
            let (size, ttl) = match change {
                Change::Expand => (2 * SIZE, "5s"),
                Change::Modify => (SIZE, "7s"),
            };
            assert_eq!(seen, (size, ttl.into()), "{change:?} killed at {steps}");
            if done {
                break;
            }
            steps += 1;
        }
        assert!(steps >= 4, "{change:?}: it reads a record and a copy, and writes both, in {steps} requests");
        assert!(half_done > 0 || !matches!(change, Change::Expand), "it was never killed between record and copy");
    }
}

/// Asks until it succeeds, of whichever controller listens: as a provisioner does.
async fn insist<T>(rig: &Rig, mut ask: impl AsyncFnMut(&mut ControllerClient<Channel>) -> Result<T, Status>) -> T {
    let endpoint = Endpoint::from_shared(format!("unix://{}", rig.path("killed.sock").display())).unwrap();
    let until = Instant::now() + 2 * SOON;
    loop {
        let said = match endpoint.connect().await {
            Ok(channel) => match ask(&mut ControllerClient::new(channel)).await {
                Ok(answer) => return answer,
                Err(status) => status.to_string(),
            },
            Err(error) => error.to_string(),
        };
        assert!(Instant::now() < until, "{said}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Volumes come and go while the controller is killed at random: each call made again until it succeeds does what it
/// says, and leaves nothing that nobody knows of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_killed_at_random_lose_no_volume_and_leave_none() {
    let rig = Rig::new().await;
    let until = Instant::now() + Duration::from_secs(requirement::size(SECONDS, 5) as u64);
    // A name is held for a while by a deletion that was interrupted: none comes twice.
    let claims = async |provisioner: usize| {
        let mut kept = BTreeMap::new();
        for number in 0.. {
            if Instant::now() > until && number > 0 {
                break;
            }
            let name = format!("pvc-{provisioner}-{number}");
            let made = insist(&rig, async |client| create(client, &name).await).await;
            let id = made.volume_id.clone();
            insist(&rig, async |client| expand(client, &id, 3 * SIZE).await).await;
            insist(&rig, async |client| modify(client, &id, "9s").await).await;
            if number % 2 == 0 {
                kept.insert(id, name);
            } else {
                insist(&rig, async |client| delete(client, &id).await).await;
            }
        }
        kept
    };
    let killing = async {
        let mut kills = 0;
        loop {
            let running = rig.start("killed.sock").await;
            let live = Duration::from_millis(rand::rng().random_range(5..300));
            tokio::time::sleep(live).await;
            if Instant::now() > until {
                return (running, kills);
            }
            running.kill();
            kills += 1;
        }
    };
    let (kept, (mut last, kills)) = tokio::join!(futures::future::join_all((0..3).map(claims)), killing);
    let kept: BTreeMap<_, _> = kept.into_iter().flatten().collect();
    eprintln!("killed {kills} controllers; {} volumes kept", kept.len());
    assert!(kills > 3 && kept.len() >= 3);
    let listed: BTreeMap<_, _> =
        last.list().await.into_iter().map(|volume| (volume.volume_id, volume.capacity_bytes)).collect();
    assert!(listed.keys().eq(kept.keys()), "{listed:?}\n{kept:?}");
    assert!(listed.values().all(|size| *size == 3 * SIZE));
    for name in kept.values() {
        let file = volume_file(&rig, name);
        assert_eq!(
            (file["limit"].as_i64(), file["parameters"]["ttl"].as_str()),
            (Some(3 * SIZE), Some("9s")),
            "{name}"
        );
    }
    // Outside of the driver's own place nothing is left of what was deleted.
    let dirs = rig.server.keys("data").into_iter().filter(|key| !key.starts_with(".millrace/"));
    let strangers: Vec<_> = dirs.filter(|key| !kept.values().any(|name| key.contains(&format!("{name}/")))).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}
