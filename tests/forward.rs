//! Frames through the real program, from the wire to routers and back.

mod common;

use common::{Scene, header, router_mac};
use std::time::Duration;
use testbed::{Router, frame};

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
const WAIT: Duration = Duration::from_secs(2);

#[test]
fn a_frame_goes_to_its_router_and_the_answer_comes_back() {
    let scene = Scene::new();
    scene.netmap("1:0/1 501:0/0\n");
    let mut router = Router::new(&scene.netio(), 1).unwrap();
    let iou_fast = scene.start(&["-i", "eth0", "-p", "501"]);
    let mut station = scene.station();
    let none: &[testbed::Tag] = &[];

    let sent = frame(router_mac(1, 0, 1), STATION, none, testbed::frame::ETHERTYPE, 60, 1);
    station.send(&sent).unwrap();
    let got = router.recv_where(WAIT, |_, frame| frame == sent).expect("the frame at the router");
    assert_eq!(got.0, header(1, 0x10, 501, 0));

    let answer = frame(STATION, router_mac(1, 0, 1), none, testbed::frame::ETHERTYPE, 60, 2);
    router.send(501, header(501, 0, 1, 0x10), &answer).unwrap();
    station.recv_where(WAIT, |frame| frame == answer.as_slice()).expect("the answer on the wire");

    let summary = iou_fast.stop();
    assert!(summary.to_routers.0 >= 1 && summary.to_nics.0 >= 1, "{}", summary.text);
    summary.assert_clean();
}
