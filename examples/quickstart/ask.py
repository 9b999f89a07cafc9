"""Asks an endpoint about a picture of the shapes world: ask.py http://127.0.0.1:8000 shapes."""

import base64
import sys

import openai

from feedback_workloads.shapes.world import png, rows

url, model = sys.argv[1:]
row = rows(0, "report", 1)[0]
picture = "data:image/png;base64," + base64.b64encode(png(row.scene)).decode()
parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": row.question}]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])  # type: ignore[arg-type, list-item]
print(f"in the picture: {row.scene.truth}")
print(f"asked:          {row.question}")
print(f"answered:       {answer.choices[0].message.content} ({answer.system_fingerprint})")
