"""Two orders cross HTTP, Kafka, RabbitMQ and Celery in real processes: `make demo`.

`shop`, `billing`, `shipping` and `packing` are the services, with `sending` and `observing`: this is what to
copy from. The rest runs them (`route`, `processes`, `client`, `files`) and shows and checks what they did
(`screen`, `pictures`, `checks`).
"""
