// Files on their way to the server, kept over a reload of the page.

import { storage } from "./dom.js";

const DAY_MS = 86_400_000;

/** This tab's files that have not arrived yet, in IndexedDB; nothing is stored in frames without access to it. */
export const shelf = {
  tab: () => storage((tab) => { if (!tab.getItem("timestep-tab")) tab.setItem("timestep-tab", Math.random().toString(36).slice(2)); return tab.getItem("timestep-tab"); }),
  async use(mode, work) {
    let opening;
    try {
      opening = window.indexedDB.open("timestep-uploads", 1);
    } catch (error) {
      if (error.name !== "SecurityError") throw error;
      return null;
    }
    opening.onupgradeneeded = () => opening.result.createObjectStore("files", { autoIncrement: true });
    const database = await settled(opening).catch(() => null); // A private window may deny access.
    if (!database) return null;
    try {
      return await work(database.transaction("files", mode).objectStore("files"));
    } finally {
      database.close();
    }
  },
  /** Its key. */
  add: (where, file) => shelf.use("readwrite", (store) => settled(store.add({ where: `${shelf.tab()} ${where}`, at: Date.now(), file }))),
  remove: (key) => (key === null ? null : shelf.use("readwrite", (store) => settled(store.delete(key)))),
  /** `{file, kept}` of this tab and `where`, such as a conversation. Files are deleted after a day. */
  async all(where) {
    const found = [];
    await shelf.use("readwrite", async (store) => {
      const [keys, rows] = await Promise.all([settled(store.getAllKeys()), settled(store.getAll())]);
      rows.forEach((row, n) => {
        if (row.at < Date.now() - DAY_MS) store.delete(keys[n]);
        else if (row.where === `${shelf.tab()} ${where}`) found.push({ file: row.file, kept: keys[n] });
      });
    });
    return found;
  },
};

const settled = (request) => new Promise((resolve, reject) => { request.onsuccess = () => resolve(request.result); request.onerror = () => reject(request.error); });
