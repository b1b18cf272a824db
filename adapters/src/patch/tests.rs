use super::*;

fn patch(offset: u64, bytes: &[u8]) -> Patch {
    Patch {
        offset,
        bytes: bytes.to_vec(),
    }
}

fn room() -> (tempfile::TempDir, PathBuf) {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("file");
    std::fs::write(&path, "0123456789").expect("write");
    (room, path)
}

#[test]
fn patches_are_applied_and_leave_nothing_else() -> Result<()> {
    let (room, path) = room();
    apply(&path, || {
        Ok::<_, Error>(vec![patch(1, b"ab"), patch(8, b"yz")])
    })?;
    assert_eq!(files::read(&path)?, b"0ab34567yz");
    assert_eq!(std::fs::read_dir(room.path()).expect("room").count(), 1);
    let beyond = apply(&path, || {
        Ok::<_, Error>(vec![patch(0, b"!"), patch(9, b"yz")])
    });
    let message = beyond.expect_err("too long").to_string();
    assert!(
        message.contains("byte 9") && message.contains("10 bytes"),
        "{message}"
    );
    assert_eq!(files::read(&path)?, b"0ab34567yz");
    Ok(())
}

#[test]
fn what_was_cut_off_is_finished_and_a_damaged_redo_file_is_refused() -> Result<()> {
    let (_room, path) = room();
    let body = encode(&[patch(1, b"ab"), patch(8, b"yz")]);
    let hash = files::sha256([body.as_slice()]);
    let whole = [MAGIC, hash.as_bytes(), &body].concat();
    // cut off when half of it was written
    std::fs::write(&path, "0ab3456789").expect("write");
    std::fs::write(redo_file(&path), &whole).expect("write");
    recover(&path)?;
    assert_eq!(files::read(&path)?, b"0ab34567yz");
    assert!(!redo_file(&path).exists());
    recover(&path)?;

    for cut in [3, MAGIC.len() + 10, whole.len() - 1] {
        std::fs::write(redo_file(&path), &whole[..cut]).expect("write");
        let message = recover(&path).expect_err("cut").to_string();
        assert!(
            message.contains(".file.redo") && message.contains("hash"),
            "{message}"
        );
        assert_eq!(files::read(&path)?, b"0ab34567yz");
    }
    Ok(())
}

#[test]
fn writers_wait_for_each_other() {
    let (_room, path) = room();
    std::thread::scope(|scope| {
        for letter in [b'x', b'y', b'z'] {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    let all = vec![patch(0, &[letter; 5]), patch(5, &[letter; 5])];
                    apply(path, || Ok::<_, Error>(all)).expect("patched");
                }
            });
        }
    });
    let bytes = std::fs::read(&path).expect("file");
    assert!(bytes.iter().all(|b| *b == bytes[0]), "{bytes:?}");
}
