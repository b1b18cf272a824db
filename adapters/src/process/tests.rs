use super::*;

#[test]
fn a_process_runs_until_it_has_ended_and_a_later_one_with_its_number_is_another() {
    let ours = ProcessId::current();
    assert!(!ours.has_ended());
    assert!(ours.pid == std::process::id() && !ours.host.is_empty());
    let read = ProcessId::of_tag(&format!("{}-x1y2", ours.tag())).expect("a process");
    assert!(!read.has_ended());
    let earlier = ProcessId {
        started: "1".into(),
        ..ours.clone()
    };
    assert_eq!(earlier.has_ended(), cfg!(unix));
    let elsewhere = ProcessId {
        machine: "another".into(),
        ..earlier
    };
    assert!(
        !elsewhere.has_ended(),
        "of another machine nothing is known"
    );
    for tag in ["", "a-b-c", "12"] {
        assert_eq!(ProcessId::of_tag(tag), None);
    }
}

#[cfg(unix)]
#[test]
fn a_child_has_ended_once_it_is_killed_also_before_anybody_waits_for_it() {
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("sleep runs");
    let of = |pid: u32| ProcessId {
        pid,
        started: started(pid).unwrap_or_default(),
        ..ProcessId::current().clone()
    };
    let id = of(child.id());
    assert!(!id.has_ended());
    child.kill().expect("killed");
    for _ in 0..200 {
        if id.has_ended() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(id.has_ended());
    child.wait().expect("ended");
    assert!(id.has_ended());
}
