//! An entry is kept whole or not at all, and removed when nobody uses it.

use super::*;

fn write(text: &str) -> impl FnOnce(&Path) -> Result<()> {
    let text = text.to_owned();
    move |directory| {
        std::fs::create_dir(directory).expect("made");
        std::fs::write(directory.join("a"), text).expect("written");
        Ok(())
    }
}

fn key() -> StoreKey {
    StoreKey::new("a model", ["one", "two"])
}

fn never(_: &Path) -> Result<()> {
    panic!("an intact entry is not written again")
}

#[test]
fn an_entry_is_written_once_and_again_when_it_is_broken() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path().join("deep"))?;
    let place = cache.entry(&key(), write("one"))?;
    assert_eq!(cache.entry(&key(), never)?, place);
    std::fs::write(place.join("a"), "two").expect("broken");
    assert_eq!(cache.get(&key()), None);
    cache.entry(&key(), write("one"))?;
    assert_eq!(
        std::fs::read_to_string(place.join("a")).expect("read"),
        "one"
    );
    std::fs::remove_file(place.join("a")).expect("removed");
    assert_eq!(cache.get(&key()), None, "a file is missing");
    cache.entry(&key(), write("one"))?;
    std::fs::write(place.join("b"), "").expect("one more");
    assert_eq!(cache.get(&key()), None, "a file too many");
    let left = std::fs::read_dir(directory.path().join("deep")).expect("read");
    assert_eq!(left.count(), 0, "nothing else stays");
    Ok(())
}

#[test]
fn of_two_writers_one_is_kept_and_both_get_it() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path())?;
    let slow = cache.entry(&key(), |directory| {
        // meanwhile
        cache.entry(&key(), write("one"))?;
        write("one")(directory)
    })?;
    assert_eq!(cache.get(&key()), Some(slow));
    Ok(())
}

#[test]
fn a_failed_write_leaves_nothing() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path())?;
    let message = cache
        .entry(&key(), |directory| {
            write("half")(directory)?;
            Err(Error::value("it", "one", "none", "retry").into())
        })
        .expect_err("failed")
        .to_string();
    assert!(message.contains("it: expected one"), "{message}");
    assert_eq!(
        std::fs::read_dir(directory.path()).expect("read").count(),
        0
    );
    Ok(())
}

#[test]
fn a_file_is_hashed_again_only_where_its_length_or_time_differs() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path())?;
    let place = cache.entry(&key(), write("one"))?;
    let file = std::fs::File::options()
        .append(true)
        .open(place.join("a"))
        .expect("open");
    let earlier = SystemTime::now() - Duration::from_secs(60);
    file.set_modified(earlier).expect("changed");
    assert_eq!(cache.get(&key()), Some(place.clone()), "the same content");
    FileList::of(&place, "a model")
        .and_then(|list| list.write(&place))
        .expect("listed");
    std::fs::write(place.join("a"), "two").expect("damaged");
    file.set_modified(earlier).expect("changed");
    assert_eq!(cache.get(&key()), Some(place), "as the list says");
    Ok(())
}

#[test]
fn entries_say_what_they_are_and_are_removed_when_unused() -> Result<()> {
    let directory = tempfile::tempdir().expect("room");
    let cache = Store::at(directory.path())?;
    let other = key().and("three");
    let old = cache.entry(&key(), write("one"))?;
    cache.entry(&other, write("three"))?;
    cache.keep_note(&key(), "guess")?;
    let list = std::fs::File::options().append(true).open(old.join(LIST));
    let day = Duration::from_secs(24 * 3600);
    list.and_then(|list| list.set_modified(SystemTime::now() - 2 * day))
        .expect("aged");
    let shown: Vec<_> = cache
        .entries()?
        .into_iter()
        .map(|e| (e.made_from, e.bytes))
        .collect();
    assert_eq!(
        shown,
        [("a model".to_owned(), 5), ("a model".to_owned(), 3)]
    );
    let removed = cache.gc(day)?;
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].directory, old);
    assert_eq!(cache.get(&key()), None);
    assert!(cache.get(&other).is_some() && cache.note(&key()).is_some());
    assert_eq!(cache.gc(Duration::ZERO)?.len(), 1);
    let left = std::fs::read_dir(directory.path()).expect("read");
    assert_eq!(left.count(), 0, "the note too");
    Ok(())
}

#[test]
fn keys_differ_with_the_bounds_of_their_parts() {
    assert_ne!(
        StoreKey::new("", ["ab", "c"]),
        StoreKey::new("", ["a", "bc"])
    );
    assert_ne!(key().and("a"), key());
}
