select core.protect_all();
