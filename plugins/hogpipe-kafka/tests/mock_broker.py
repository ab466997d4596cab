"""librdkafka's mock cluster of one broker, as a program that reads commands.

It prints `HOST:PORT`, reads commands from its standard input, one a line, and answers each `ok`:

    down                the broker closes its connections and accepts none
    up                  it listens again, on the same port, with its messages
    advertise HOST PORT the address that it advertises to clients
    fail KEY CODE...    the next requests of this kind (protocol.kafka: 0 Produce) get these errors
    fail_topic CODE     the topic `hogpipe` gets this error in metadata

The functions are those of rdkafka_mock.h, called in the library in confluent-kafka.
"""

import ctypes
import sys
from pathlib import Path

import confluent_kafka

PRODUCER = 0  # RD_KAFKA_PRODUCER


def main() -> None:
    """Serve until the standard input ends."""
    (path,) = Path(confluent_kafka.__file__).parent.parent.glob(
        "confluent_kafka.libs/librdkafka-*.so*"
    )
    kafka = ctypes.CDLL(str(path))
    kafka.rd_kafka_conf_new.restype = ctypes.c_void_p
    kafka.rd_kafka_new.restype = ctypes.c_void_p
    kafka.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    kafka.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    text = ctypes.create_string_buffer(512)
    client = kafka.rd_kafka_new(
        PRODUCER, ctypes.c_void_p(kafka.rd_kafka_conf_new()), text, ctypes.c_size_t(512)
    )
    assert client, text.value
    cluster = ctypes.c_void_p(kafka.rd_kafka_mock_cluster_new(ctypes.c_void_p(client), 1))
    print(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        if command == "down":
            kafka.rd_kafka_mock_broker_set_down(cluster, 1)
        elif command == "up":
            kafka.rd_kafka_mock_broker_set_up(cluster, 1)
        elif command == "advertise":
            kafka.rd_kafka_mock_broker_set_host_port(
                cluster, 1, words[0].encode(), ctypes.c_int(int(words[1]))
            )
        elif command == "fail":
            codes = [int(word) for word in words[1:]]
            kafka.rd_kafka_mock_push_request_errors_array(
                cluster,
                ctypes.c_int16(int(words[0])),
                ctypes.c_size_t(len(codes)),
                (ctypes.c_int * len(codes))(*codes),
            )
        elif command == "fail_topic":
            kafka.rd_kafka_mock_topic_set_error(cluster, b"hogpipe", ctypes.c_int(int(words[0])))
        print("ok", flush=True)


if __name__ == "__main__":
    main()
