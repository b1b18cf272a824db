use super::*;

#[test]
fn a_second_run_is_told_who_works_there_and_the_next_takes_over() {
    let room = tempfile::tempdir().expect("room");
    let out = room.path().join("deep/run");
    let first = RunLock::take(&out).expect("free");
    let message = RunLock::take(&out).err().expect("taken").to_string();
    let (pid, host) = (std::process::id(), &ProcessId::current().host);
    assert!(
        message.contains(&format!("found process {pid} on {host}, since 20")),
        "{message}"
    );
    assert!(message.contains("--out"), "{message}");
    drop(first);
    assert!(!room.path().join("deep").exists(), "nothing was written");
    let second = RunLock::take(&out).expect("free again");
    std::fs::write(out.join(super::super::FILE), "{}").expect("written");
    drop(second);
    let left = std::fs::read_dir(&out).expect("a run");
    assert_eq!(left.count(), 1, "the lock is gone");
}

#[test]
fn the_lock_of_a_killed_process_is_taken_over() {
    let room = tempfile::tempdir().expect("room");
    // what a kill leaves: the file, which no process holds
    std::fs::write(room.path().join(LOCK), "{\"process\": {").expect("written");
    drop(RunLock::take(room.path()).expect("taken over"));
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let room = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(room.path().join("thesis.txt"), "x").expect("writable");
    let error = RunLock::take(room.path()).err().map(|e| e.to_string());
    let error = error.unwrap_or_default();
    assert!(
        error.contains("other files") && error.contains("--out"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(room.path()).expect("left").count(), 1);
}
