// Caches versioned scripts and styles; pages are never cached, since they contain a session of five minutes.
const CACHE = "timestep-lab-2";
const OFFLINE = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Offline</title>
<style>:root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;display:grid;place-content:center;min-height:90vh;text-align:center}</style>
<h1>The lab cannot be reached</h1><p>Check that the server runs, then <a href="">try again</a>.</p></html>`;

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil((async () => {
  for (const key of await caches.keys()) if (key !== CACHE) await caches.delete(key);
  await clients.claim();
})()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || url.origin !== location.origin) return;
  if (url.pathname.startsWith("/assets/") && url.searchParams.has("v")) event.respondWith(fromCache(request));
  else if (request.mode === "navigate") event.respondWith(fetch(request).catch(() => new Response(OFFLINE, { headers: { "content-type": "text/html" } })));
});

async function fromCache(request) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request);
  if (kept) return kept;
  const answer = await fetch(request);
  if (answer.ok) {
    await cache.delete(request, { ignoreSearch: true });  // From an earlier version.
    await cache.put(request, answer.clone());
  }
  return answer;
}
