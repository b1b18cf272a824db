use super::*;

#[test]
fn each_epoch_has_every_prompt_once_and_a_late_start_finds_its_place() {
    let mut order = Order::new(3, 10, 4);
    let all: Vec<Vec<usize>> = (0..9).map(|s| order.batch(s).to_vec()).collect();
    for epoch in all.chunks(3) {
        assert_eq!(epoch.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut seen = epoch.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }
    assert_ne!(all[..3], all[3..6]);
    for start in 0..9 {
        let mut late = Order::new(3, 10, 4);
        let rest: Vec<Vec<usize>> = (start..9).map(|s| late.batch(s).to_vec()).collect();
        assert_eq!(rest, all[start..], "from step {start}");
    }
}
