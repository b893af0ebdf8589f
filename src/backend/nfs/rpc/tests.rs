//! Calls against a server that answers when and how a test says.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn call(number: u32) -> Call {
    Call { procedure: (1, 1, 1), arguments: number.to_be_bytes().to_vec(), data: Bytes::new() }
}

async fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Address { host: "127.0.0.1".into(), port })
}

fn client(address: &Address, connections: usize) -> Arc<Client> {
    Arc::new(Client::new(address, &Credential::None, connections))
}

/// The xid and the number of the next call.
async fn hear(stream: &mut TcpStream) -> (u32, u32) {
    let mut message = record::read(stream).await.unwrap().unwrap();
    let xid = message.get_u32();
    message.advance(9 * 4);
    (xid, message.get_u32())
}

/// A reply with `number` as its result.
fn reply(xid: u32, number: u32) -> Vec<u8> {
    let mut message = BytesMut::new();
    for word in [(1 << 31) | 28, xid, 1, 0, 0, 0, 0, number] {
        message.put_u32(word);
    }
    message.to_vec()
}

async fn number(client: &Client, asked: u32) -> Result<(u32, bool), Trouble> {
    let mut reply = client.call(&call(asked), PATIENCE).await?;
    Ok((reply.results.get_u32(), reply.resent))
}

#[tokio::test]
async fn answers_find_their_callers_in_any_order() {
    let (listener, address) = listener().await;
    let client = client(&address, 1);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut calls = Vec::new();
        for _ in 0..50 {
            calls.push(hear(&mut stream).await);
        }
        for (xid, number) in calls.into_iter().rev() {
            stream.write_all(&reply(xid, number * 2)).await.unwrap();
        }
        stream
    });
    let asked = (0..50).map(|asked| number(&client, asked));
    let answered: Vec<_> = join_all(asked).await.into_iter().map(|outcome| outcome.unwrap().0).collect();
    assert_eq!(answered, (0..50).map(|asked| asked * 2).collect::<Vec<_>>());
    drop(server.await.unwrap());
}

#[tokio::test]
async fn what_was_not_answered_is_sent_again_under_its_xid() {
    let (listener, address) = listener().await;
    let client = client(&address, 1);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let first = [hear(&mut stream).await, hear(&mut stream).await];
        stream.write_all(&reply(first[0].0, first[0].1)).await.unwrap();
        // In the middle of a reply.
        stream.write_all(&reply(first[1].0, 0)[..10]).await.unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        let again = hear(&mut stream).await;
        assert_eq!(again, first[1]);
        stream.write_all(&reply(again.0, again.1)).await.unwrap();
        stream
    });
    let (one, other) = tokio::join!(number(&client, 1), number(&client, 2));
    let mut answers = [one.unwrap(), other.unwrap()];
    answers.sort_unstable();
    assert_eq!(answers.map(|(number, _)| number), [1, 2]);
    assert_eq!(answers.iter().filter(|(_, resent)| *resent).count(), 1);
    drop(server.await.unwrap());
}

#[tokio::test]
async fn a_call_ends_by_its_deadline_and_leaves_nothing_behind() {
    let (listener, address) = listener().await;
    let client = client(&address, 1);
    let patience = Duration::from_millis(200);
    let late = client.call(&call(1), patience).await.unwrap_err();
    assert_eq!(late, Trouble::Late(patience, None));
    let (mut stream, _) = listener.accept().await.unwrap();
    let (old, _) = hear(&mut stream).await;
    // A caller who does not wait.
    assert!(tokio::time::timeout(patience, number(&client, 2)).await.is_err());
    assert_eq!(client.lanes[0].in_flight(), 0);
    let (dropped, _) = hear(&mut stream).await;
    let asking = tokio::spawn(async move { number(&client, 3).await });
    let (xid, asked) = hear(&mut stream).await;
    for (xid, number) in [(old, 70), (dropped, 71), (xid, asked)] {
        stream.write_all(&reply(xid, number)).await.unwrap();
    }
    assert_eq!(asking.await.unwrap(), Ok((3, false)));
}

#[tokio::test]
async fn who_is_not_there_is_said_and_found_when_he_comes() {
    let (listener, address) = listener().await;
    drop(listener);
    let client = client(&address, 2);
    let patience = Duration::from_millis(300);
    match client.call(&call(1), patience).await {
        Err(Trouble::Late(_, Some(why))) => assert!(why.contains("refused") && why.contains("127.0.0.1"), "{why}"),
        other => panic!("{other:?}"),
    }
    let asking = tokio::spawn(async move { number(&client, 5).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let listener = TcpListener::bind((address.host.as_str(), address.port)).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let (xid, asked) = hear(&mut stream).await;
    stream.write_all(&reply(xid, asked)).await.unwrap();
    assert_eq!(asking.await.unwrap(), Ok((5, false)));
}

#[tokio::test]
async fn long_data_follows_its_call_and_is_padded() {
    let (listener, address) = listener().await;
    let client = client(&address, 1);
    let data: Bytes = (0..100_001_u32).map(|at| at as u8).collect();
    let with_data = Call { data: data.clone(), ..call(7) };
    let asking = tokio::spawn(async move {
        let without = call(8);
        let (one, other) = tokio::join!(client.call(&with_data, PATIENCE), client.call(&without, PATIENCE));
        (one.is_ok(), other.is_ok())
    });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut message = record::read(&mut stream).await.unwrap().unwrap();
        let xid = message.get_u32();
        message.advance(9 * 4);
        seen.push(message.get_u32());
        if seen.last() == Some(&7) {
            assert_eq!(message.split_to(data.len()), data);
            assert_eq!(message, [0; 3].as_slice());
        }
        stream.write_all(&reply(xid, 0)).await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, [7, 8]);
    assert_eq!(asking.await.unwrap(), (true, true));
}

#[tokio::test]
async fn calls_are_spread_over_the_connections() {
    let (listener, address) = listener().await;
    let client = client(&address, 3);
    let asked = (0..3).map(|asked| {
        let client = client.clone();
        tokio::spawn(async move { number(&client, asked).await })
    });
    let asked: Vec<_> = asked.collect();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (mut stream, _) = listener.accept().await.unwrap();
        let heard = hear(&mut stream).await;
        streams.push((stream, heard));
    }
    for (stream, (xid, number)) in &mut streams {
        stream.write_all(&reply(*xid, *number)).await.unwrap();
    }
    for one in asked {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_client_that_is_gone_closes_its_connections() {
    let (listener, address) = listener().await;
    let client = client(&address, 1);
    let asking = {
        let client = client.clone();
        tokio::spawn(async move { number(&client, 1).await })
    };
    let (mut stream, _) = listener.accept().await.unwrap();
    let (xid, asked) = hear(&mut stream).await;
    stream.write_all(&reply(xid, asked)).await.unwrap();
    asking.await.unwrap().unwrap();
    drop(client);
    assert_eq!(record::read(&mut stream).await.unwrap(), None);
}
