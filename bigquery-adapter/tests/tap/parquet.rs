//! The tap into Parquet files.

use std::time::Duration;

use crate::kills::kills;
use crate::support::{Random, Setup, wait_for};
use crate::world::{Load, World};

#[test]
fn an_adapter_with_parquet_files_is_killed_at_any_moment_and_no_row_is_lost_or_repeated() {
    let mut random = Random::new();
    let world = World::start();
    let setup = Setup::new("mqtt://127.0.0.1:1").and(&[
        "--source",
        "tap",
        "--redis",
        &world.redis_url(),
        "--set",
        "tap.lease_ms=1000",
        "--set",
        "parquet.roll_ms=60",
        "--set",
        "tap.partitions=6",
    ]);
    drop(setup.start_ready());
    let load = Load::start(&world, &[("a", "1"), ("b", "2"), ("c", "1")]);
    for _ in 0..kills(6) {
        let adapter = setup.start_ready();
        wait_for("rows", || {
            (setup.metric("dunlin_adapter_committed_rows_total")? > 0).then_some(())
        });
        std::thread::sleep(Duration::from_millis(random.below(300)));
        adapter.kill();
    }
    let sent = load.finish();
    let adapter = setup.start_ready();
    wait_for("everything to be acknowledged", || {
        (world.messages_left() == 0).then_some(())
    });
    assert!(adapter.terminate().success());
    let found = setup.sql(
        "select client_id, count(*), count(distinct payload), count(distinct message_id) from messages \
         where client_id != 'probe' group by client_id order by client_id",
    );
    let expected: Vec<String> = sent
        .iter()
        .map(|(client, count)| format!("('{client}', {count}, {count}, {count})"))
        .collect();
    assert_eq!(found, expected.join("\n"));
    setup.assert_log_has_only(&["the last commit before the adapter ended was unfinished"]);
}
