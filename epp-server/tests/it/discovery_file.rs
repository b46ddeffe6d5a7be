//! A watched file: changes come through, faults keep what was.

use std::fs;
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
    pool.set(file::read(&path).unwrap()).unwrap();
    tokio::spawn(file::watch(path.clone(), Arc::clone(&pool)).unwrap());

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
