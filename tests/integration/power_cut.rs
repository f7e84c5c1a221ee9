//! What a power cut takes: nothing that was accepted where the broker syncs each message, and something where it does
//! not, by which the test shows that it would notice.

use std::io::Write as _;

use mesh_tests::disk::{Disk, loop_devices_of};
use mesh_tests::power::{Figures, Mounted, Options, possible, power_cut};

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_keeps_through_a_power_cut_what_was_synced_and_nothing_else() {
    if !possible().await {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::format(directory.path().join("before")).unwrap();
    let mounted = Mounted::new(&disk, directory.path()).await.unwrap();

    let mut synced = std::fs::File::create(mounted.path("synced")).unwrap();
    synced.write_all(b"kept").unwrap();
    synced.sync_all().unwrap();
    drop(synced);
    std::fs::write(mounted.path("cached"), b"lost").unwrap();
    mounted.cut().unwrap();
    let refused = std::fs::File::create(mounted.path("later"));
    let after = disk.copy(directory.path().join("after")).unwrap();
    mounted.end().await;

    let mounted = Mounted::new(&after, directory.path()).await.unwrap();
    assert!(refused.is_err(), "the disk was written after its power was cut");
    assert_eq!(std::fs::read(mounted.path("synced")).unwrap(), b"kept");
    assert_ne!(std::fs::read(mounted.path("cached")).unwrap_or_default(), b"lost");
    assert_eq!(loop_devices_of(directory.path()).unwrap().len(), 1);
    mounted.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_survives_a_power_cut_where_each_message_is_synced() {
    if !possible().await {
        return;
    }

    let figures = cut_several_times(3, true).await;

    assert!(figures.results > 0 && figures.finished_later > 0, "the power was not cut amid work: {figures}");
    assert!(figures.kept_everything(), "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_what_was_accepted_where_messages_are_synced_now_and_then() {
    if !possible().await {
        return;
    }

    let figures = cut_several_times(1, false).await;

    assert!(figures.lost > 0, "nothing was lost, so this test would not notice if something were: {figures}");
    assert!(figures.kept_order(), "{figures}");
}

/// Takes some minutes: `cargo test -p mesh-tests --test integration fifty_power_cuts -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a soak: takes some minutes"]
async fn fifty_power_cuts() {
    if !possible().await {
        return;
    }

    let always = cut_several_times(50, true).await;
    println!("sync_interval: always: {always}");
    let default = cut_several_times(5, false).await;
    println!("sync_interval: 2m (the default): {default}");

    assert!(always.kept_everything(), "{always}");
    assert!(default.lost > 0 && default.kept_order(), "{default}");
}

async fn cut_several_times(cuts: u64, sync_always: bool) -> Figures {
    let first = fastrand::u64(..1 << 48);
    let mut sum = Figures::default();
    for seed in first..first + cuts {
        let options = Options { sync_always, seed };
        let figures = power_cut(&options).await;
        println!("{options:?}: {figures}");
        sum += figures;
    }
    sum
}
