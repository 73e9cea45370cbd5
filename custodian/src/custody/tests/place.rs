//! How long a call keeps its places.

use tokio::sync::Semaphore;

use super::*;

#[tokio::test]
async fn while_a_call_is_recorded_another_may_ask_the_token() {
    let (calls, asking) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
    let [call, ask] = [&calls, &asking].map(|semaphore| Arc::clone(semaphore).try_acquire_owned().unwrap());
    let scene = Scene::new(Meanwhile::Nothing).await;
    let call = Call { place: Place::new(call, vec![ask]), ..scene.call().await };
    // For now nothing can be recorded.
    let other = scene.ledger.other_program();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (custodian, request) = (Arc::clone(&scene.custodian), scene.request());
    let unwrapping = tokio::spawn(async move { custodian.unwrap(call, request).await });
    drop(asking.acquire().await.unwrap());
    assert_eq!((calls.available_permits(), unwrapping.is_finished()), (0, false));
    other.execute_batch("ROLLBACK").unwrap();
    assert!(unwrapping.await.unwrap().is_ok());
    assert_eq!(calls.available_permits(), 1);
}
