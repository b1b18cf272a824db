use super::*;

#[test]
fn what_was_written_is_read_and_a_cut_file_is_refused() -> Result<()> {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("x.safetensors");
    let mut writer = TensorFileWriter::create((&path, &path), ["b", "a"], 0)?;
    let floats: Vec<u8> = [1f32, 2., 3.]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    writer.push("b", Dtype::F32, &[3], &floats)?;
    writer.push("a", Dtype::U8, &[2], &[7, 8])?;
    let length = writer.finish(BTreeMap::new())?;
    let bytes = files::read(&path)?;
    assert_eq!(length as usize, bytes.len());
    let all = safetensors::SafeTensors::deserialize(&bytes).expect("the crate reads it too");
    assert_eq!(all.tensor("a").expect("a").data(), [7, 8]);
    let file = TensorFile::open(&path)?;
    assert_eq!(file.names(), ["b", "a"]);
    assert_eq!(file.tensor("b")?.to_vec1::<f32>()?, [1., 2., 3.]);
    let message = file.tensor("a").expect_err("no float").to_string();
    assert!(
        message.contains("`a`") && message.contains("U8"),
        "{message}"
    );
    for length in [4, 100, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..length]).expect("write");
        let message = TensorFile::open(&path).expect_err("cut").to_string();
        assert!(
            message.contains("x.safetensors") && message.contains("truncated"),
            "{message}"
        );
    }
    Ok(())
}

#[test]
fn the_files_of_a_checkpoint_are_those_that_transformers_takes() -> Result<()> {
    let room = tempfile::tempdir().expect("directory");
    let touch = |name: &str| std::fs::write(room.path().join(name), "").expect("written");
    let remove = |name: &str| std::fs::remove_file(room.path().join(name)).expect("there");
    let found = || {
        let shards = shards(room.path())?;
        let names = shards.iter().filter_map(|s| s.file_name()?.to_str());
        let names: Vec<String> = names.map(str::to_owned).collect();
        Ok::<_, Error>((names, shard_names(&shards)))
    };
    let refusal = || found().expect_err("refused").to_string();
    assert!(refusal().contains("found neither"));
    let of_2 = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    touch(of_2[0]);
    assert!(refusal().contains("weights: expected shard 2 of 2, found no such file"));
    touch(of_2[1]);
    let both = of_2.map(str::to_owned).to_vec();
    assert_eq!(found()?, (both.clone(), both));
    touch("model-00001-of-00003.safetensors");
    assert!(refusal().contains("expected the 2 shards of one checkpoint, found others too"));
    let index = r#"{"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}"#;
    std::fs::write(room.path().join(INDEX), index).expect("written");
    assert!(refusal().contains("shard part-1.safetensors"));
    touch("part-1.safetensors");
    touch("part-2.safetensors");
    let parts = ["part-1.safetensors", "part-2.safetensors"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(found()?, (parts, of_2.map(str::to_owned).to_vec()));
    touch(SINGLE);
    assert_eq!(found()?, (vec![SINGLE.into()], vec![SINGLE.into()]));
    remove(SINGLE);
    std::fs::write(
        room.path().join(INDEX),
        r#"{"weight_map": {"a": "part-1.safetensors"}}"#,
    )
    .expect("written");
    assert_eq!(
        found()?,
        (vec!["part-1.safetensors".into()], vec![SINGLE.into()])
    );
    Ok(())
}
