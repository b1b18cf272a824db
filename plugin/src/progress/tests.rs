use super::*;

#[test]
fn a_line_names_the_stage_the_steps_and_the_times() {
    let line = |steps, seconds| text("tune truth", steps, Duration::from_secs(seconds));
    assert_eq!(line((0, 0), 3), "tune truth: 3 s elapsed");
    assert_eq!(line((0, 600), 4), "tune truth: 0/600, 4 s elapsed");
    assert_eq!(
        line((200, 600), 90),
        "tune truth: 200/600, 1 min 30 s elapsed, 3 min 0 s left"
    );
    assert_eq!(
        line((600, 600), 7260),
        "tune truth: 600/600, 2 h 1 min elapsed, 0 s left"
    );
}

#[test]
fn the_innermost_work_is_shown_until_it_ends() {
    // other tests make progress at the same time
    let mine = |work: &Arc<Work>| work.to_string().starts_with("of this test");
    let now = || {
        let all = working().clone();
        all.into_iter().filter(mine).map(|w| w.to_string()).last()
    };
    let outer = Progress::new("of this test, outer", 2);
    outer.step();
    let mut inner = of("of this test, inner");
    assert!(now().is_some_and(|t| t.starts_with("of this test, inner: 0 s")));
    inner(1, 4);
    assert!(now().is_some_and(|t| t.starts_with("of this test, inner: 1/4")));
    drop(inner);
    assert!(now().is_some_and(|t| t.starts_with("of this test, outer: 1/2")));
    drop(outer);
    assert_eq!(now(), None);
}
