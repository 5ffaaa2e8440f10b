//! How long a start takes. These run one at a time.

use super::*;

#[test]
fn endpoints_on_other_hosts_are_reported() {
    let scene = Scene::new();
    // A way to a name server that never answers: a look-up takes seconds.
    scene.host.ip("addr add 198.51.100.1/24 dev eth0").unwrap();
    scene.host.ip("route add default via 198.51.100.2").unwrap();
    // 192.0.2.1 (TEST-NET-1, RFC 5737) is no host's.
    scene.netmap(
        "1:0/0@lab 501:0/0@lab\n\
         2:0/0@192.0.2.1 501:0/1\n\
         3:0/0@no-such-host.invalid 501:0/2\n\
         4:0/0 501:0/3@192.0.2.1\n\
         5:0/0@198.51.100.1 501:0/4@127.0.0.1\n",
    );
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let before = Instant::now();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let took = before.elapsed();
    println!("ready after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");

    let file = scene.netmap_file();
    let file = file.display();
    let stderr = iou_fast.process.stderr();
    assert_says(
        &stderr,
        &[
            &*format!("{file}:2: 2:0/0 is on host 192.0.2.1: remote, and not yet carried"),
            &format!("{file}:3: @no-such-host.invalid is taken for this host"),
            &format!("{file}:4: 501:0/3 is on host 192.0.2.1: remote, and not yet carried"),
        ],
    );
    let stdout = iou_fast.process.stdout();
    let links: Vec<&str> = stdout
        .lines()
        .filter(|line| line.contains(" via "))
        .map(|line| &line[..line.find(',').unwrap()])
        .collect();
    let expected = [
        "eth0: router 1:0/0 via 501:0/0",
        "eth0: router 3:0/0 via 501:0/2",
        "eth0: router 5:0/0 via 501:0/4",
    ];
    assert_eq!(links, expected, "{stdout}");
    assert!(!stderr.contains("@lab") && !stderr.contains("has no router"), "{stderr}");
    carries(&scene, &mut router, [(1, 0), (501, 0)], NO_TAG);
    iou_fast.stop();

    scene.netmap("1:0/0@192.0.2.1 501:0/0\n");
    let error = scene.refused(&["-i", "eth0", "-p", "501"]);
    assert_says(&error, &["nothing would be on eth0", "1:0/0 is on host 192.0.2.1: remote"]);
}

/// Promise (The start): The start is ready at once, with fifty routers and with a thousand.
#[test]
fn start_is_ready_at_once_with_a_thousand_routers() {
    let fifty = time_to_ready(50);
    assert!(fifty < Duration::from_millis(300), "{fifty:?}");
    let thousand = time_to_ready(1000);
    assert!(thousand < Duration::from_secs(1), "{thousand:?}");
}
