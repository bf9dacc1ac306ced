"""What a browser sees on a server that does not sign it in by itself."""

PAGE = b"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sign in - Timestep Lab</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>
:root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;display:grid;place-content:center;min-height:90vh;
max-width:40ch;margin:auto;padding:16px}button{font:inherit;min-height:44px;padding:0 20px;border-radius:6px;border:1px solid;
cursor:pointer}</style></head><body><h1>Timestep Lab</h1><p>You are not signed in. Go on without an account: a
signed cookie keeps your threads and traces yours.</p><form method="post" action="/api/v1/auth/anonymous?then=/">
<button>Continue without an account</button></form></body></html>"""
