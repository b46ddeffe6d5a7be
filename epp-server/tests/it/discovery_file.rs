//! A watched file: changes come through, faults keep what was.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;

use epp_server::discovery::{Pool, file};

use crate::support;

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn names(pool: &Pool) -> Vec<String> {
    pool.endpoints().iter().map(|endpoint| endpoint.name.to_string()).collect()
}

#[tokio::test]
async fn changes_come_through_and_faults_keep_the_last_endpoints() {
    let folder = folder("watched");
    let path = folder.join("endpoints.yaml");
    fs::write(&path, "endpoints: ['10.0.0.1:8000']").unwrap();
    let pool = support::pool(&[]);
    tokio::spawn(file::watch(path.clone(), Arc::clone(&pool)).unwrap());
    support::eventually("the first endpoint", || names(&pool) == ["10.0.0.1:8000"]).await;

    fs::write(&path, "endpoints:\n- 10.0.0.1:8000\n- {name: '10.0.0.2:8000', labels: {zone: b}}\n").unwrap();
    support::eventually("the second endpoint", || names(&pool) == ["10.0.0.1:8000", "10.0.0.2:8000"]).await;
    assert_eq!(pool.endpoints()[1].labels["zone"], "b");

    // An unreadable file, then one that takes its place as volume mounts do: by a rename.
    fs::write(&path, "endpoints: [engine").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert_eq!(names(&pool), ["10.0.0.1:8000", "10.0.0.2:8000"]);
    let next = folder.join("endpoints.yaml.next");
    fs::write(&next, "endpoints: ['10.0.0.3:8000']").unwrap();
    fs::rename(&next, &path).unwrap();
    support::eventually("the third endpoint", || names(&pool) == ["10.0.0.3:8000"]).await;
    fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_mounted_config_map_is_followed() {
    let folder = folder("mounted");
    // As kubelet does it: the file is a link through `..data`, which is replaced in one step.
    let publish = |version: &str, endpoint: &str| {
        fs::create_dir_all(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("endpoints.yaml"), format!("endpoints: ['{endpoint}']")).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    publish("..version-1", "10.0.0.1:8000");
    let path = folder.join("endpoints.yaml");
    symlink("..data/endpoints.yaml", &path).unwrap();
    let pool = support::pool(&[]);
    tokio::spawn(file::watch(path, Arc::clone(&pool)).unwrap());
    support::eventually("the first endpoint", || names(&pool) == ["10.0.0.1:8000"]).await;
    for turn in 2..5 {
        publish(&format!("..version-{turn}"), &format!("10.0.0.{turn}:8000"));
        fs::remove_dir_all(folder.join(format!("..version-{}", turn - 1))).unwrap();
        support::eventually("the next endpoint", || names(&pool) == [format!("10.0.0.{turn}:8000")]).await;
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_fault_is_named_with_file_and_place() {
    let folder = folder("faults");
    let path = folder.join("endpoints.yaml");
    let shown = path.display().to_string();
    let error = file::read(&path).unwrap_err();
    assert!(
        error.starts_with("cannot read endpoints file") && error.ends_with(&format!("`{shown}`")),
        "{error}"
    );
    fs::write(&path, "endpoints:\n- {name: '[FD00:0::7]:8000'}\n").unwrap();
    assert_eq!(&*file::read(&path).unwrap()[0].name, "[fd00::7]:8000", "written as gateways write it");
    fs::write(&path, "endpoints:\n- 10.0.0.1:8000\n- engine:8000\n").unwrap();
    let error = file::read(&path).unwrap_err();
    assert!(error.contains("`engine:8000`") && error.contains("line 3") && error.contains(&shown), "{error}");
    fs::write(&path, "endpoint: []").unwrap();
    assert!(file::read(&path).unwrap_err().contains("unknown field `endpoint`"));
    fs::remove_dir_all(&folder).unwrap();
}
