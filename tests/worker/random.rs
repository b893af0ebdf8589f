//! Node plugins and workers that are killed at random moments, again and again, while volumes come and go.

use super::*;

/// For how many seconds; `make faults` asks for more.
const SECONDS: &str = "MILLRACE_TEST_KILLING_S";
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Two share a worker, the others do not.
fn of_pod(endpoint: &str, target: &Path) -> Publish {
    let name = target.file_name().unwrap().to_str().unwrap();
    let namespace = if name == "b" { "a" } else { name };
    Publish { namespace: Some(namespace.into()), ..request(endpoint, target) }
}

/// The role of the one that is killed: targets come and go, all at once, for as long as it lives.
#[test]
fn a_busy_life() {
    let Some([endpoint, state, target]) = words_of_other_node() else { return };
    Runtime::new().unwrap().block_on(async {
        // What the one before left may take a moment to end.
        let workers = loop {
            match Workers::start(config(Path::new(&state), SOON)).await {
                Ok(workers) => break workers,
                Err(error) => eprintln!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let pods = NAMES.map(|name| {
            let (workers, endpoint) = (workers.clone(), endpoint.clone());
            let target = Path::new(&target).with_file_name(name);
            async move {
                loop {
                    // A worker that is killed meanwhile fails either; the kubelet asks again, as this does.
                    if workers.publish(of_pod(&endpoint, &target)).await.is_ok() {
                        let _ = workers.unpublish(VOLUME, &target).await;
                    }
                }
            }
        });
        futures::future::join_all(pods).await;
    });
}

#[test]
fn whoever_is_killed_whenever_nothing_is_left() {
    let Some(rig) = Rig::new() else { return };
    let until = Instant::now() + Duration::from_secs(requirement::size(SECONDS, 6) as u64);
    let mut node = OtherNode::play(&rig, "random::a_busy_life");
    let (mut nodes, mut workers) = (0, 0);
    while Instant::now() < until || nodes == 0 || workers == 0 {
        std::thread::sleep(Duration::from_millis(rand::random_range(0..700)));
        let running = workers_of(&rig.state());
        if rand::random_range(0..3) == 0 {
            drop(node);
            nodes += 1;
            node = OtherNode::play(&rig, "random::a_busy_life");
        } else if !running.is_empty() {
            let _ = kill(running[rand::random_range(0..running.len())], Signal::SIGKILL);
            workers += 1;
        }
        assert!(Instant::now() < until + 2 * SOON, "nobody was killed: {nodes} node plugins, {workers} workers");
    }
    drop(node);
    eprintln!("killed {nodes} node plugins and {workers} workers");

    let next = rig.workers_with(SOON);
    for name in NAMES {
        let target = rig.target(name);
        rig.publish(&next, of_pod(&rig.server.endpoint(), &target)).unwrap();
        assert_eq!(rig.hello(name).unwrap(), "hello, world");
        rig.unpublish(&next, name).unwrap();
    }
    eventually("no worker is left", || workers_of(&rig.state()).is_empty());
    rig.assert_clean(&[]);
}
